use nlb_hostname_targets::policy::Ownership::*;
use support::histories::{Fault, Happening::*, History, How::*, Kind, Setting, happen};
#[test]
fn scratch() {
    let setting = Setting {
        kind: Kind::Chained,
        has_two_names: true,
        ownership: Exclusive,
        grace: Some(60),
        lookups: Some(1),
        caches: 0,
        ttl: 1,
        seed: 0,
    };
    happen(
        setting,
        &History(vec![
            Begin(0, Full, 0),
            Go(0, 13),
            Dns(0, [1].into()),
            Pass(2001),
            Step(0, Fault::None),
            Pass(2001),
            Go(0, 3),
            Pass(2001),
            Go(0, 1),
        ]),
    );
}
