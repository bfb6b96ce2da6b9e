//! The corpus of the fuzz targets `run` and `state`, replayed.

#[path = "../../../fuzz/checks/replay.rs"]
mod replay;
#[path = "../../../fuzz/checks/run.rs"]
mod run;
#[path = "../../../fuzz/checks/state.rs"]
mod state;

#[test]
fn no_history_breaks_a_rule() {
    replay::replay("../fuzz/corpus/run", run::run);
}

#[test]
fn no_tag_does_harm() {
    replay::replay("../fuzz/corpus/state", state::state);
}
