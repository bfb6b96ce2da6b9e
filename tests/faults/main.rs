//! Whatever goes wrong, the targets stay as right as they can be: the fault matrix, printed, and a soak.
//!
//! `cargo test --test faults -- matrix` (or `soak`) runs one of them, and `--include-ignored` all pairs of faults. They have
//! a process of their own, because they keep the processors busy, and the other tests are about time.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a wrong test shall stop where it is wrong, and this one prints"
)]

mod matrix;
mod soak;
mod truth;

use std::{env, process::ExitCode, thread};

use tokio::runtime;

fn main() -> ExitCode {
    let (flags, filters): (Vec<_>, Vec<_>) = env::args().skip(1).partition(|argument| argument.starts_with('-'));
    let is_wanted = |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
    let has_all_pairs = flags.iter().any(|flag| flag == "--include-ignored");
    let matrix_holds = !is_wanted("matrix") || matrix::holds(has_all_pairs);
    let holds = (!is_wanted("soak") || soak::holds()) && matrix_holds;
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Each thread has a runtime and a clock of its own.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}
