//! Names that give samples, minute by minute: what is there stays, and what is gone goes.

use std::collections::BTreeSet;

use crate::universe::{Happening, Kind, Setting, Stage, target};

/// Lets so many hosts be given by turns, of which one dies after an hour; `is_healthy` says how AWS finds it then. Returned
/// is after how many minutes its target was gone.
fn minutes_until_gone(setting: Setting, hosts: u8, is_healthy: bool) -> usize {
    let mut stage = Stage::new(setting);
    stage.play(&Happening::Dns(0, (10..10 + hosts).collect()));
    for minute in 0..3000 {
        if minute == 60 {
            stage.play(&Happening::Dns(0, (11..10 + hosts).collect()));
            if !is_healthy {
                stage.play(&Happening::Dead([10].into()));
            }
        }
        let is_known = setting.kind != Kind::Rotating || stage.now().is_rotating();
        assert!(is_known || minute < 60, "it is not seen to rotate");
        let report = stage.alone(0);
        let alive: BTreeSet<_> = (11..10 + hosts).map(|host| target(host, 0)).collect();
        assert!(!is_known || report.deregistered.is_disjoint(&alive), "takes what lives: {report:#?}");
        if minute >= 30 {
            assert!(alive.is_subset(&stage.now().group.registered()), "{minute}: {report:#?}");
        }
        if minute >= 60 && !stage.now().group.registered().contains(&target(10, 0)) {
            return minute - 60;
        }
        stage.play(&Happening::Pass(60_000));
    }
    panic!("it stays for good: {setting:?}")
}

#[test]
fn rule_15_what_lives_stays_and_what_is_dead_goes_after_its_count_or_if_unhealthy_after_its_grace() {
    for (kind, hosts) in
        [(Kind::Reader, 2), (Kind::Reader, 4), (Kind::Balancer, 4), (Kind::Rotating, 2), (Kind::Rotating, 3)]
    {
        for (caches, ttl, longest_ttl) in [(0, 1, 1), (1, 5, 5), (1, 5, 60), (4, 5, 30)] {
            let setting = Setting { caches, ttl, longest_ttl, ..Setting::of(kind) };
            let minutes = minutes_until_gone(setting, hosts, false);
            assert!(minutes <= 7, "{setting:?}: after {minutes} minutes, though it is unhealthy");
            let minutes = minutes_until_gone(setting, hosts, true);
            // A sample may have lacked it before.
            assert!(minutes >= 3, "{setting:?}: after {minutes} minutes");
        }
    }
}
