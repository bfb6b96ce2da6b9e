//! Files that cargo and the Makefile leave beside the tests.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// A file beside what cargo builds, for what one part of `make test` leaves to another.
pub(crate) fn temporary(name: &str) -> PathBuf {
    // It is target/PROFILE/deps/TEST that runs.
    let binary = env::current_exe().expect("a running test");
    let folder = binary.ancestors().nth(3).expect("a folder of cargo's").join("tmp");
    fs::create_dir_all(&folder).expect("cargo's folder can be written to");
    folder.join(name)
}

/// The release binary that `make build` made.
pub fn release_binary() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let binary = Path::new(&target).join("lambda/bootstrap/bootstrap");
    assert!(binary.exists(), "{} is not there: `make build` first", binary.display());
    binary
}
