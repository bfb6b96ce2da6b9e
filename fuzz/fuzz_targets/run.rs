#![no_main]

#[path = "../checks/run.rs"]
mod run;
#[path = "../../core/tests/core/universe/mod.rs"]
mod universe;

libfuzzer_sys::fuzz_target!(|input: &[u8]| run::run(input));
