//! The contract's rules, as they are checked at each effect and at the end.

use super::*;

impl Universe {
    /// What a change is decided on is new, or was asked for again in vain.
    fn check_freshness(&mut self, me: usize, what: &dyn fmt::Debug) {
        let now = self.now;
        let Notes { run, is_dry, .. } = &mut self.notes[me];
        assert!(!*is_dry, "a dry run writes {what:?}");
        let is_old = |at: Instant| now - at > Duration::from_secs(2);
        let mut answers = run.newest.values().flatten();
        assert!(run.looks >= 2 || !answers.any(|answer| is_old(answer.at)), "rule 9: {what:?} by an old answer");
        let is_list_old = run.listed_at.is_some_and(is_old) && !run.is_unavailable;
        assert!(run.lists >= 1 || !is_list_old, "rule 9: {what:?} by an old list");
        (run.looks, run.lists) = (0, 0);
        run.writes += 1;
    }

    pub(super) fn check_tags(&mut self, me: usize, changes: &TagChanges) {
        self.check_freshness(me, changes);
        let run = &self.notes[me].run;
        let read = run.tags.as_ref().expect("tags are changed that were not read");
        let group = self.bound_to(me);
        let function = FUNCTIONS[function_of(me)];
        for key in changes.add.keys().chain(&changes.remove) {
            let is_rotating = key.starts_with("nlb-hostname-targets:rotates/");
            let is_own = parse(key).is_some_and(|(_, owner)| owner.is_none_or(|owner| owner == function));
            assert!(is_own || is_rotating, "rule 8: touches {key}, which is another's");
            let is_unknown = changes.remove.contains(key) && !read.contains_key(key) && run.writes == 1;
            assert!(!is_unknown, "rule 8: removes {key}, which it did not see");
            if let (Some((target, _)), false) = (parse(key), changes.remove.contains(key)) {
                let is_needed = self.is_shared() || !self.notes[me].grace(group, &target).is_zero();
                let is_unsure = self.is_tampered || !self.notes[me].answer_in_full(group);
                assert!(is_needed || is_unsure, "rule 8: writes state that nobody needs: {key}");
            }
        }
        let mut after = read.clone();
        changes.apply(&mut after);
        let is_known = run.writes == 1 && read == self.group.tags();
        assert!(!is_known || after.len() <= MOST_TAGS, "rule 8: {} tags", after.len());
    }

    pub(super) fn check_registration(&mut self, me: usize, targets: &BTreeSet<Target>) {
        self.check_freshness(me, targets);
        let notes = &self.notes[me];
        let desired = notes.desired(self.bound_to(me), false);
        let shown = notes.shown();
        for target in targets {
            assert!(!is_public(target.address), "rule 6: registers {target}");
            assert!(desired.targets.contains(target), "registers {target}, which no answer holds");
            assert!(!shown.contains_key(target), "rule 17: registers {target}, which is registered");
        }
        assert!(!notes.run.has_failed && targets.len() <= 200, "registers {targets:?}");
    }

    /// Whose a target is, is written before it is registered; at the time that this comes to pass.
    pub(super) fn check_owned_first(&self, me: usize, targets: &BTreeSet<Target>) {
        let run = &self.notes[me].run;
        if !self.is_shared() || self.is_tampered || run.has_lost_tags || run.tags.is_none() {
            return;
        }
        let (mut own, _) = owned(self.group.tags(), FUNCTIONS[function_of(me)]);
        // Of what was missing for so long, a run beside this one forgets whose it is.
        let (state, _) = State::read(self.group.tags(), FUNCTIONS[function_of(me)]);
        let now = self.clock().time;
        own.retain(|target| state.missing.get(target).is_none_or(|since| now.since(*since) <= LONGEST_LAG));
        let orphans = targets.difference(&own);
        let forgotten = &self.claims[function_of(me)].forgotten;
        let orphans: Vec<_> = orphans.filter(|target| !forgotten.contains(*target)).collect();
        assert!(orphans.is_empty(), "rule 8: registers {orphans:?}, which no tag says to be its own");
    }

    pub(super) fn check_deregistration(&mut self, me: usize, going: &BTreeSet<RegisteredTarget>) {
        self.check_freshness(me, going);
        let notes = &self.notes[me];
        let run = &notes.run;
        let desired = notes.desired(self.bound_to(me), true);
        let shown = notes.shown();
        assert!(desired.is_complete, "rule 2: deregisters {going:?} while a name did not resolve");
        assert!(!run.is_unavailable, "rule 18: deregisters {going:?} though AWS can't tell the targets");
        assert!(!run.has_failed, "rule 1: deregisters {going:?} after a change failed");
        let is_in = |target: &Target| shown.contains_key(target) || self.was_registered_since(target, notes.seen_at);
        let absent = desired.targets.iter().filter(|target| !is_in(target) && !run.refused.contains(*target));
        let absent: Vec<_> = absent.collect();
        if run.has_reached_quota {
            assert!(!run.has_made_room, "rule 1: makes room twice");
            // A list that lags may lack what another run has registered.
            let needed = desired.targets.iter().filter(|target| !shown.contains_key(*target)).count();
            assert!(going.len() <= needed.max(1), "rule 1: makes too much room: {going:?} for {absent:?}");
            assert!(going.len() < shown.len(), "rule 1: empties the group to make room");
            let listed = run.list.iter().flatten().filter(|listed| listed.state == TargetState::Draining);
            let draining = listed.filter(|listed| !shown.contains_key(&listed.target)).count();
            assert_eq!(draining, 0, "rule 1: room that is on its way is waited for");
        } else {
            assert!(absent.is_empty(), "rule 1: deregisters {going:?} before {absent:?} is in");
            assert!(desired.targets.iter().any(is_in), "rule 5: deregisters {going:?}, and nothing replaces it");
        }
        let listed = run.list.as_ref().expect("rule 2: nothing is deregistered without a list");
        for RegisteredTarget { target, id, availability_zone, state, .. } in going {
            if let Some(listed) = listed.iter().find(|listed| listed.target == *target) {
                assert_eq!((&listed.id, &listed.availability_zone), (id, availability_zone), "rule 4: {target}");
            }
            assert!(shown.contains_key(target) && state.is_registered(), "rules 3 and 17: deregisters {target} again");
            assert!(!desired.targets.contains(target), "deregisters {target}, which DNS gives");
            assert!(!desired.refused.contains(&target.address), "deregisters {target}, whose address DNS gives");
            self.check_grace(me, target);
            self.check_evidence(me, target, *state);
            if *state == TargetState::Initial {
                let lacked = notes.lacked_since.get(target).map(|since| self.now - *since);
                assert!(lacked >= Some(FLAPPING), "rule 16: deregisters {target} after {lacked:?}");
            }
            if self.is_shared() {
                let claims = &self.claims[function_of(me)];
                let is_claimed = claims.given.contains(&target.address) || claims.targets.contains(target);
                assert!(is_claimed, "rule 8: deregisters {target}, which is somebody else's");
                let tags = run.tags.as_ref().expect("nobody knows whose it is without the tags");
                let (_, elsewhere) = owned(tags, FUNCTIONS[function_of(me)]);
                assert!(!elsewhere.contains(target), "rule 8: deregisters {target}, which another function owns");
            }
        }
    }

    fn was_registered_since(&self, target: &Target, since: Instant) -> bool {
        self.group.registered().contains(target) || self.left_at.get(target).is_some_and(|left| *left >= since)
    }

    fn check_grace(&self, me: usize, target: &Target) {
        let notes = &self.notes[me];
        let grace = notes.grace(self.bound_to(me), target);
        let last_seen = notes.last_seen.get(target).map(|at| self.now - *at);
        let is_early = last_seen.is_some_and(|ago| ago < grace);
        assert!(!is_early, "rules 8 and 15: deregisters {target} {last_seen:?} after it was seen");
        if self.is_tampered || !notes.answer_in_full(self.bound_to(me)) {
            return;
        }
        let mut since = self.missing_since[function_of(me)][target];
        if !self.claims.iter().any(|claims| claims.given.contains(&target.address)) {
            since = since.max(self.first_listed[target]);
        }
        // A tag that is gone may have been wiped, and then memory counts on.
        let since = notes.lacked_since.get(target).map_or(since, |lacked_since| since.min(*lacked_since));
        let missing = self.now - since;
        assert!(missing >= grace, "rule 8: deregisters {target} after {missing:?} of {grace:?}");
    }

    fn check_evidence(&self, me: usize, target: &Target, state: TargetState) {
        let notes = &self.notes[me];
        let group = self.bound_to(me);
        let mut listed = notes.run.list.iter().flatten();
        if state == TargetState::Unhealthy && listed.any(|shown| shown.state == TargetState::Healthy) {
            return;
        }
        for hostname in notes.judges(group, target) {
            let Some(count) = notes.counts.get(hostname) else { continue };
            if !notes.must_count(group, hostname) {
                continue;
            }
            let registered = notes.shown();
            // What this run registered may not be listed yet.
            let registered = registered.keys().filter(|target| !notes.writes.contains_key(*target));
            let targets = registered.filter(|target| notes.judges(group, target).contains(&hostname)).count();
            let (lacked, needed) = count.evidence(target.address, targets);
            assert!(lacked >= needed, "rule 15: deregisters {target} after {lacked} of {needed} answers of {hostname}");
            let is_hidden = hostname.canonical() == BALANCER && !count.has_given(target.address);
            assert!(!is_hidden, "rule 15: deregisters {target}, which {hostname} may hide here");
        }
    }

    /// What a function registered in a shared group is known to be its own.
    pub(super) fn check_owned(&self) {
        for (function, claims) in FUNCTIONS.iter().zip(&self.claims) {
            let tags = self.group.tags();
            let (own, _) = owned(tags, function);
            let orphans: Vec<_> = (&claims.owned - &claims.forgotten).difference(&own).copied().collect();
            assert!(self.is_tampered || orphans.is_empty(), "rule 8: no tag says whose {orphans:?} are: {tags:?}");
        }
    }

    /// No run empties a group by itself.
    pub(super) fn check_not_empty(&self, me: usize, before: &BTreeSet<Target>) {
        let others = self.changed_at.iter().enumerate().filter(|(who, _)| *who != me);
        let is_alone = others.filter_map(|(_, at)| *at).all(|at| at < self.notes[me].seen_at);
        let is_emptied = !before.is_empty() && self.group.registered().is_empty();
        assert!(!is_emptied || !is_alone, "rule 1: the run empties the group");
    }

    /// What must hold after a run that nothing disturbed.
    pub(super) fn check_calm(&self, me: usize, report: &GroupReport) {
        let notes = &self.notes[me];
        let group = self.bound_to(me);
        let Notes { run, .. } = notes;
        let desired = notes.desired(group, false);
        let registered = self.group.registered();
        let is_refused = |target: &&Target| self.group.not_registrable.contains(&target.address);
        let absent: BTreeSet<_> = desired.targets.difference(&registered).copied().collect();
        let kept_out = absent.iter().filter(is_refused).count();
        let has_quota = self.group.quota >= 1000;
        let told = || format!("{report:#?}\n{:?}", self.group.tags());
        assert!(absent.len() == kept_out || !has_quota, "rules 1, 5 and 18: {absent:?} is not registered\n{}", told());
        let has_answers = run.newest.values().all(Result::is_ok) && desired.is_complete;
        let is_able = has_answers && !self.is_unavailable && has_quota;
        let own = self.group.tags().keys().filter(|key| is_of_others(key)).count();
        let is_roomy = own + registered.len() + self.claims[0].targets.len() + ROOM_FOR_ALL / 2 <= MOST_TAGS;
        let is_stuck = registered.iter().any(|target| self.group.not_deregistrable.contains(&target.address));
        let is_well = is_able && desired.is_usable && kept_out == 0 && is_roomy && !is_stuck;
        assert!(!is_well || report.failures.is_empty(), "nothing disturbed it\n{}", told());
        let must_fail = !desired.is_complete || !desired.is_usable || self.is_unavailable || kept_out > 0;
        assert!(!must_fail || !report.failures.is_empty(), "rules 2, 5 and 18: it does not fail\n{}", told());
        if !is_able || !notes.answer_in_full(group) {
            return;
        }
        let stale: BTreeSet<_> = registered.difference(&desired.targets).copied().collect();
        let held: BTreeSet<_> = report.held.iter().map(|held| held.target).collect();
        assert_eq!(held, stale, "the report names what stays\n{}", told());
        if desired.targets.is_disjoint(&registered) || !is_roomy {
            return;
        }
        let (own, elsewhere) =
            run.tags.as_ref().map(|tags| owned(tags, FUNCTIONS[function_of(me)])).unwrap_or_default();
        for shown in self.group.list(self.now).iter().filter(|shown| stale.contains(&shown.target)) {
            let target = shown.target;
            let is_foreign = self.is_shared() && (!own.contains(&target) || elsewhere.contains(&target));
            let is_kept = desired.refused.contains(&target.address)
                || self.group.not_deregistrable.contains(&target.address)
                || is_foreign;
            let is_new = shown.state == TargetState::Initial;
            let waiting = report.waiting.iter().find(|waiting| waiting.target == target);
            let time = self.clock().time;
            let is_waiting = waiting.is_some_and(|waiting| {
                let left = waiting.deregister_at.since(time);
                !left.is_zero() && left <= notes.grace(group, &target)
            });
            assert!(is_kept || is_new || is_waiting, "{target} is kept too long\n{}", told());
        }
        let grace = group.deregister_after_seconds.unwrap_or_default();
        let is_tidy = self.is_shared() || grace == 0 || !stale.is_empty() || !is_well;
        let is_mine = |(_, owner): (_, Option<&str>)| owner.is_none_or(|owner| owner == FUNCTIONS[function_of(me)]);
        let left: Vec<_> = self.group.tags().keys().filter(|key| parse(key).is_some_and(is_mine)).collect();
        assert!(is_tidy || left.is_empty(), "rule 8: a tag is left: {left:?}\n{}", told());
    }

    /// What must hold when all had the time that it takes.
    pub(super) fn check_settled(&self) {
        let notes = &self.notes[0];
        let group = self.bound_to(0);
        if self.names[0].gives_samples() {
            return;
        }
        let desired = notes.desired(group, false);
        if !desired.is_complete || desired.targets.is_empty() || !notes.answer_in_full(group) {
            return;
        }
        let registered = self.group.registered();
        let (own, elsewhere) = owned(self.group.tags(), FUNCTIONS[0]);
        let stale = registered.difference(&desired.targets).filter(|target| {
            let is_foreign = !own.contains(*target) || elsewhere.contains(*target);
            !(desired.refused.contains(&target.address) || (self.is_shared() && is_foreign))
        });
        let stale: Vec<_> = stale.collect();
        assert!(stale.is_empty(), "nobody's any more: {stale:?}, tags {:?}", self.group.tags());
    }
}
