//! Histories that random ones found, cut down to what matters.

use nlb_hostname_targets_core::policy::Ownership;

use crate::universe::{Fault, Happening, Happening::*, History, How, Kind, Setting, happen};

fn play(setting: Setting, events: impl Into<Vec<Happening>>) {
    happen(setting, &History(events.into()));
}

/// A name of one's own that leads to a reader endpoint, which answers in full as far as nobody says otherwise.
fn chained() -> Setting {
    let (kind, ownership) = (Kind::Chained, Ownership::Exclusive);
    Setting { kind, second: None, ownership, grace: None, lookups: Some(1), caches: 0, ttl: 1, longest_ttl: 1, seed: 0 }
}

#[test]
fn tmp() {
    let setting = Setting { kind: Kind::Balancer, second: Some(1), lookups: None, ..chained() };
    play(setting, [Step(0, Fault::None), Begin(1, How::Watch(5), 0), Dns(1, [1].into()), Quota(1), Dns(0, [].into())]);
}
