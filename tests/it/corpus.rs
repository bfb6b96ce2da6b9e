//! The corpus of the fuzz targets of what comes in from outside, replayed.

#[path = "../../fuzz/checks/lib.rs"]
#[allow(unreachable_pub, reason = "it is a library to the fuzz targets")]
mod checks;
#[path = "../../fuzz/checks/replay.rs"]
#[allow(unreachable_pub, reason = "the core's tests have it, too")]
mod replay;

#[test]
fn no_input_is_misread() {
    replay::replay("fuzz/corpus/binding_tags", checks::binding_tags);
    replay::replay("fuzz/corpus/dns_answer", checks::dns_answer);
    replay::replay("fuzz/corpus/environment", checks::environment);
    replay::replay("fuzz/corpus/event", checks::event);
}
