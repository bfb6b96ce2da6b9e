//! What has to hold whatever comes in from outside. Each check takes bytes of any kind and panics
//! where the code breaks a promise; cargo-fuzz makes up the bytes, and the tests replay those of
//! `fuzz/corpus`.

mod binding_tags;
mod bindings;
mod dns_answer;
mod environment;
mod event;

pub use binding_tags::binding_tags;
pub use dns_answer::dns_answer;
pub use environment::environment;
pub use event::event;

/// Messages go to a log of which each line is an entry: nobody outside may begin one.
fn assert_one_line(message: &str) {
    assert!(!message.is_empty());
    assert!(!message.chars().any(char::is_control), "a control character in {message:?}");
}
