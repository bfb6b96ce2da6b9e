//! Replays what is kept of the inputs that cargo-fuzz made up: what they found stays mended.

/// Runs a check over the inputs of its target.
pub fn replay(corpus: &str, check: fn(&[u8])) {
    let inputs: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!inputs.is_empty());
    for input in inputs {
        // Shown where the check fails.
        eprintln!("{}", input.display());
        check(&std::fs::read(&input).unwrap());
    }
}
