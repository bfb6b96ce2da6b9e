//! The contract's rules, as they are checked at each step of a history.

use super::*;

impl Universe {
    /// What a change is based on is new, or was asked for again in vain.
    pub(super) fn check_freshness(&self, step: &Step) {
        let notes = &self.actors[self.acting];
        let is_old = |at: Instant| self.now - at > Duration::from_secs(2);
        // Of samples, one that failed leaves those before, until the name counts as not resolved.
        let counts = |hostname| {
            notes.newest.get(hostname).is_some_and(Option::is_some)
                || (matches!(step, Step::Deregister(_)) && notes.answering(hostname) != Answering::InFull)
        };
        let good = notes.newest_good.iter().filter(|(hostname, _)| counts(*hostname));
        let old: Vec<_> = good.filter(|(_, answer)| is_old(answer.at)).collect();
        assert!(old.is_empty() || notes.looks >= 2, "rule 9: acts on old answers: {step:?}, {old:?}");
        let is_old = notes.list.is_some() && is_old(notes.listed_at);
        assert!(!is_old || notes.lists >= 2 || notes.is_unavailable, "rule 9: acts on an old list: {step:?}");
    }

    pub(super) fn check_registration(&self, targets: &BTreeSet<Target>) {
        let me = self.acting;
        let now = World::now(self);
        let notes = &self.actors[me];
        let (desired, ..) = notes.desired();
        for target in targets {
            assert!(!is_public(target.address), "rule 6: registers {target}");
            assert!(desired.contains(target), "registers {target}, which no answer holds");
            let is_repeated = notes.writes.get(target).is_some_and(|write| write.is_registration());
            assert!(!is_repeated, "rule 17: registers {target} again for want of being seen");
            let is_in = notes.state_of(target).is_some_and(TargetState::is_registered);
            assert!(!is_in, "registers {target}, which is registered");
            if notes.is_shared() && !self.is_tampered {
                let tags = self.group.tags(self.now, Duration::ZERO);
                assert!(
                    owned(tags, me).contains(target),
                    "rule 8: registers {target}, which no tag says to be its own"
                );
                // Of what was missing for so long, a run beside this one forgets whose it is.
                let since = missing_since(tags, me, target).unwrap_or(now.time);
                let missing = now.time.since(since);
                assert!(missing <= LONGEST_LAG, "rule 8: registers {target}, by a tag missing for {missing:?}");
            }
        }
    }

    pub(super) fn check_deregistration(&self, shown: &BTreeSet<RegisteredTarget>) {
        let me = self.acting;
        let notes = &self.actors[me];
        let (desired, refused, is_complete) = notes.surely_desired();
        let going: BTreeSet<_> = shown.iter().map(|shown| shown.target).collect();
        assert!(is_complete, "rule 2: deregisters {going:?} while a name did not resolve");
        assert!(!notes.is_unavailable, "rule 18: deregisters {going:?} though AWS can't tell the targets");
        assert!(!notes.has_failed, "rule 1: deregisters {going:?} after a change failed");
        let kept_out: Vec<_> = notes.not_registrable.intersection(&desired).collect();
        assert!(kept_out.is_empty(), "rule 1: deregisters {going:?} though {kept_out:?} can't be registered");
        let listed = notes.list.as_ref().expect("rule 2: nothing is deregistered without a list");
        let absent: Vec<_> = desired
            .iter()
            .filter(|target| !self.was_registered_since(target, notes.seen_at) && !notes.writes.contains_key(*target))
            .collect();
        assert!(notes.has_reached_quota || absent.is_empty(), "rule 1: deregisters {going:?} before {absent:?} is in");
        for shown in shown {
            let target = shown.target;
            let in_list = listed.iter().find(|listed| listed.target == target);
            let write = notes.writes.get(&target);
            let is_repeated = write.is_some_and(|write| !write.is_registration());
            assert!(!is_repeated, "rule 17: deregisters {target} again for want of being seen");
            match (in_list, write) {
                (Some(listed), None) => assert_eq!(listed, shown, "rule 4: deregisters something else"),
                (None, None) => panic!("deregisters {target}, which is not there"),
                (_, Some(_)) => {}
            }
            assert!(shown.state.is_registered(), "rule 3: deregisters {target}, which drains");
            assert!(!desired.contains(&target), "deregisters {target}, which DNS gives");
            assert!(!refused.contains(&target.address), "deregisters {target}, which DNS gives");
            self.check_grace(&target);
            if shown.state == TargetState::Initial {
                let lacked = notes.lacked_since.get(&target).map(|since| self.now - *since);
                assert!(lacked >= Some(FLAPPING), "rule 16: deregisters {target} after {lacked:?}");
            }
            if notes.is_shared() {
                let claims = &self.claims[function_of(me)];
                let is_claimed = claims.given.contains(&target.address) || claims.targets.contains(&target);
                assert!(is_claimed, "rule 8: deregisters {target}, which is somebody else's");
                let tags = notes.tags.as_ref().expect("nobody knows whose it is without the tags");
                let elsewhere = owned_elsewhere(tags, me);
                assert!(!elsewhere.contains(&target), "rule 8: deregisters {target}, which another function owns");
            }
        }
    }

    pub(super) fn check_grace(&self, target: &Target) {
        let notes = &self.actors[self.acting];
        let grace = notes.grace();
        let last_seen = notes.last_seen.get(target).map(|at| self.now - *at);
        let is_early = last_seen.is_some_and(|ago| ago < grace);
        assert!(!is_early, "rules 8 and 15: deregisters {target} {last_seen:?} after it was seen");
        if !notes.answer_in_full() {
            return;
        }
        let mut since = self.missing_since[function_of(self.acting)][target];
        let was_given = self.claims.iter().any(|claims| claims.given.contains(&target.address));
        if !was_given {
            since = since.max(self.first_listed[target]);
        }
        let missing = self.now - since;
        assert!(missing >= grace, "rule 8: deregisters {target} after {missing:?} of {grace:?}");
    }

    /// What a function registered in a shared group is known to be its own.
    pub(super) fn check_owned(&self) {
        let tags = self.group.tags(self.now, Duration::ZERO);
        for (function, actor) in [0, 2].into_iter().enumerate() {
            let owned = owned(tags, actor);
            let orphans: Vec<_> = self.claims[function].owned.difference(&owned).collect();
            assert!(self.is_tampered || orphans.is_empty(), "rule 8: no tag says whose {orphans:?} are: {tags:?}");
        }
    }

    /// No run empties a group by itself.
    pub(super) fn check_not_empty(&self, before: &BTreeSet<Target>) {
        let notes = &self.actors[self.acting];
        let others = self.changed_at.iter().enumerate().filter(|(who, _)| *who != self.acting);
        let is_alone = others.filter_map(|(_, at)| *at).all(|at| at < notes.seen_at);
        let may_empty = notes.has_reached_quota && before.len() == 1;
        let is_emptied = !before.is_empty() && self.group.registered().is_empty();
        assert!(!is_emptied || may_empty || !is_alone, "the run empties the group");
    }

    /// What must hold after a run that nothing disturbed.
    pub(super) fn check_calm(&mut self, report: &GroupReport) {
        let now = World::now(self);
        let me = self.acting;
        let notes = &self.actors[me];
        let (desired, refused, is_complete) = notes.desired();
        let registered = self.group.registered();
        let is_refused = |target: &&Target| self.group.not_registrable.contains(&target.address);
        let kept_out: BTreeSet<_> = desired.difference(&registered).filter(is_refused).copied().collect();
        let is_roomy = self.room() > ROOM_FOR_ALL;
        let has_quota = self.group.quota >= 1000;
        let context = || format!("{report:#?}");
        // What DNS gives is in.
        let absent: Vec<_> = desired.difference(&registered).filter(|target| !kept_out.contains(target)).collect();
        assert!(absent.is_empty() || !has_quota || !is_roomy, "rule 18: {absent:?} is not registered\n{}", context());
        let may_deregister = is_complete && !self.is_unavailable && desired.is_subset(&registered);
        assert!(may_deregister || notes.has_reached_quota || notes.deregistered.is_empty(), "{}", context());
        let stuck = registered.iter().any(|target| self.group.not_deregistrable.contains(&target.address));
        let has_answers = notes.newest.values().all(Option::is_some);
        let is_well = is_complete
            && has_answers
            && !self.is_unavailable
            && kept_out.is_empty()
            && is_roomy
            && has_quota
            && !stuck;
        let failures = &report.failures;
        assert!(!is_well || failures.is_empty(), "a run failed that nothing disturbed: {failures:?}");
        assert!(is_complete && !self.is_unavailable && kept_out.is_empty() || !failures.is_empty(), "{}", context());
        if self.is_unavailable || !notes.answer_in_full() {
            return;
        }
        let stale: BTreeSet<_> = registered.difference(&desired).copied().collect();
        let held: BTreeSet<_> = report.held.iter().map(|held| held.target).collect();
        assert!(held.is_subset(&stale), "the report names what stays\n{}", context());
        let is_told = held == stale || (notes.has_failed && desired.is_subset(&registered));
        assert!(is_told, "the report names all that stays: {stale:?}\n{}", context());
        let notes = &mut self.actors[me];
        let was_well = mem::replace(&mut notes.was_well, is_well);
        if !is_well {
            self.noted.clear();
            return;
        }
        let grace = notes.grace();
        let owned = notes.tags.as_ref().map(|tags| owned(tags, me)).unwrap_or_default();
        let elsewhere = notes.tags.as_ref().map(|tags| owned_elsewhere(tags, me)).unwrap_or_default();
        let listed = self.group.list(self.now, Duration::ZERO);
        let mut noted = BTreeMap::new();
        for shown in listed.iter().filter(|shown| stale.contains(&shown.target)) {
            let target = shown.target;
            if notes.is_shared() && (!owned.contains(&target) || elsewhere.contains(&target)) {
                continue;
            }
            if refused.contains(&target.address) {
                continue;
            }
            let since = self.noted.get(&target).map_or(now.time, |since| now.time.min(*since));
            noted.insert(target, since);
            let lacked = self.now - *notes.known_since.entry(target).or_insert(self.now);
            let is_new = shown.state == TargetState::Initial && lacked < FLAPPING;
            let due = Timestamp(since.0 + u64::try_from(grace.as_millis()).unwrap());
            let is_waiting = !grace.is_zero() && due > notes.began;
            assert!(is_new || is_waiting, "{target} is kept too long\n{}", context());
        }
        let may_be_tidy = was_well && !notes.is_barred;
        let is_nothing_to_remember = !notes.is_shared() && (grace.is_zero() || noted.is_empty()) && may_be_tidy;
        let mut left = self.own_tags();
        left.retain(|key, _| is_own(key, me));
        assert!(!is_nothing_to_remember || left.is_empty(), "rule 8: a tag is left: {left:?}\n{}", context());
        self.noted = noted;
    }
}
