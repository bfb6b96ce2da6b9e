//! Links the release binary at a fixed address, and tells it the commit that it was built from.

#![allow(clippy::print_stdout, reason = "this is how a build script speaks to cargo")]

use std::{env, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SOURCE_COMMIT");
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    if is_release {
        // Without 17,000 relocations it is 0.4 MB smaller, and the loader has less to do in a cold start.
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
    let given = env::var("SOURCE_COMMIT").ok().filter(|commit| !commit.is_empty());
    // Not in the other profiles, whose tests would be built anew after each commit.
    let commit = given.or_else(|| is_release.then(commit).flatten()).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=SOURCE_COMMIT={commit}");
}

/// What git has here, if this folder is under its control: the commit, with `-dirty` behind it where what is built is
/// not what was committed.
fn commit() -> Option<String> {
    // Sources that lie unpacked in the repository of something else are none of its files.
    git(&["ls-files", "--error-unmatch", "build.rs"])?;
    let commit = git(&["rev-parse", "HEAD"])?;
    // Whatever moves HEAD writes to this file. A file that does not exist would have this script run at each build.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    for path in SOURCES.into_iter().chain([log.as_str()]) {
        println!("cargo::rerun-if-changed={path}");
    }
    let is_dirty = git(&[&["diff", "--quiet", "HEAD", "--"], SOURCES.as_slice()].concat()).is_none();
    Some(if is_dirty { format!("{commit}-dirty") } else { commit })
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

const SOURCES: [&str; 4] = ["Cargo.lock", "Cargo.toml", "core", "src"];
