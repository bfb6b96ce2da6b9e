//! Texts from outside, made fit for a message.

/// `text` with its control characters escaped: a message that repeats what an event or a variable
/// holds must not let it begin a line of its own in the log.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}
