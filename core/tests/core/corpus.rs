//! The corpus of the fuzz targets `run` and `state`, replayed: what they found stays mended.

use std::{fs, path::Path};

#[path = "../../../fuzz/checks/run.rs"]
mod run;
#[path = "../../../fuzz/checks/state.rs"]
mod state;

#[test]
fn no_history_breaks_a_rule() {
    replay("run", run::run);
}

#[test]
fn no_tag_does_harm() {
    replay("state", state::state);
}

fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let inputs: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!inputs.is_empty());
    for input in inputs {
        // Shown where the check fails.
        eprintln!("{}", input.display());
        check(&fs::read(&input).unwrap());
    }
}
