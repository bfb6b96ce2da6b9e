//! The corpus of the fuzz targets, replayed: what they found stays mended.

use std::{fs, path::Path};

#[path = "../../fuzz/checks/lib.rs"]
#[allow(unreachable_pub, reason = "it is a library to the fuzz targets")]
mod checks;

#[test]
fn no_tag_is_misread_that_binds() {
    replay("binding_tags", checks::binding_tags);
}

#[test]
fn no_dns_answer_misleads() {
    replay("dns_answer", checks::dns_answer);
}

#[test]
fn no_environment_is_misread() {
    replay("environment", checks::environment);
}

#[test]
fn no_event_is_misread() {
    replay("event", checks::event);
}

fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let inputs: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!inputs.is_empty());
    for input in inputs {
        // Shown where the check fails.
        eprintln!("{}", input.display());
        check(&fs::read(&input).unwrap());
    }
}
