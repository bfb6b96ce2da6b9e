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
        assert!(mem::take(&mut run.has_turn), "rule 12: {what:?} out of turn");
    }

    pub(super) fn check_tags(&mut self, me: usize, changes: &TagChanges) {
        self.check_freshness(me, changes);
        let notes = &self.notes[me];
        let read = notes.run.tags.as_ref().expect("tags are changed that were not read");
        let group = self.bound_to(me);
        let function = FUNCTIONS[function_of(me)];
        let is_first = notes.run.writes == 1;
        for key in changes.add.keys().chain(&changes.remove) {
            let name = key.strip_prefix("nlb-hostname-targets:").unwrap_or_default();
            let is_owned = name.starts_with("owned/") && name.ends_with(&format!("/{function}"));
            let is_own = is_owned || name.starts_with("missing/") || name.starts_with("rotates/");
            assert!(is_own, "rule 8: touches {key}, which is another's");
            let is_unknown = changes.remove.contains(key) && !read.contains_key(key);
            assert!(!is_first || !is_unknown, "rule 8: removes {key}, which it did not see");
        }
        let needs_state = |target: &Target| self.is_shared() || !notes.grace(group, target).is_zero();
        let is_sure = !self.is_tampered && notes.answer_in_full(group);
        let written = State::read(&changes.add, function).0.missing;
        assert!(!is_sure || written.keys().all(needs_state), "rule 8: writes state that nobody needs: {changes:?}");
        let mut after = read.clone();
        changes.apply(&mut after);
        let is_known = is_first && read == self.group.tags();
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
        let State { mut owned, missing, .. } = self.state(me);
        // Of what was missing for so long, a run beside this one forgets whose it is.
        let now = self.clock().time;
        owned.retain(|target| missing.get(target).is_none_or(|since| now.since(*since) <= LONGEST_LAG));
        owned.extend(&self.claims[function_of(me)].forgotten);
        let orphans = targets - &owned;
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
        let listed = run.list.as_ref().expect("rule 2: nothing is deregistered without a list");
        let registered = self.group.registered();
        let is_in = |target: &Target| {
            let was_in = self.left_at.get(target).copied() >= notes.seen_at;
            shown.contains_key(target) || registered.contains(target) || was_in
        };
        if run.has_reached_quota {
            assert!(!run.has_made_room, "rule 1: makes room twice");
            // A list that lags may lack what another run has registered.
            let needed = desired.targets.iter().filter(|target| !shown.contains_key(*target)).count();
            assert!(going.len() <= needed.max(1), "rule 1: makes too much room: {going:?} for {needed}");
            assert!(going.len() < shown.len(), "rule 1: empties the group to make room");
            let mut draining = listed.iter().filter(|listed| listed.state == TargetState::Draining);
            let is_on_its_way = draining.any(|listed| !shown.contains_key(&listed.target));
            assert!(!is_on_its_way, "rule 1: room that is on its way is waited for");
        } else {
            let absent = desired.targets.iter().filter(|target| !is_in(target) && !run.refused.contains(*target));
            let absent: Vec<_> = absent.collect();
            assert!(absent.is_empty(), "rule 1: deregisters {going:?} before {absent:?} is in");
            assert!(desired.targets.iter().any(is_in), "rule 5: deregisters {going:?}, and nothing replaces it");
        }
        for RegisteredTarget { target, id, availability_zone, state, .. } in going {
            if let Some(listed) = listed.iter().find(|listed| listed.target == *target) {
                assert_eq!((&listed.id, &listed.availability_zone), (id, availability_zone), "rule 4: {target}");
            }
            assert!(shown.contains_key(target) && state.is_registered(), "rules 3 and 17: deregisters {target} again");
            let is_given = desired.targets.contains(target) || desired.refused.contains(&target.address);
            assert!(!is_given, "deregisters {target}, which DNS gives");
            self.check_grace(me, target);
            self.check_evidence(me, target, *state);
            if *state == TargetState::Initial {
                let lacked = notes.lacked_since.get(target).map(|since| self.now - *since);
                assert!(lacked >= Some(FLAPPING), "rule 16: deregisters {target} after {lacked:?}");
            }
            if self.is_shared() {
                let is_claimed = self.claims[function_of(me)].given.contains(&target.address);
                assert!(is_claimed, "rule 8: deregisters {target}, which is somebody else's");
                let tags = run.tags.as_ref().expect("nobody knows whose it is without the tags");
                let (state, _) = State::read(tags, FUNCTIONS[function_of(me)]);
                assert!(!state.elsewhere.contains(target), "rule 8: deregisters {target}, which another one owns");
            }
        }
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
        let mut since = self.claims[function_of(me)].missing_since[target];
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
        let judges = notes.judges(group, target).into_iter();
        for hostname in judges.filter(|hostname| notes.is_sample(group, hostname) == Some(true)) {
            let (lacked, needed, has_given) = notes.evidence(group, hostname, target.address);
            assert!(lacked >= needed, "rule 15: deregisters {target} after {lacked} of {needed} answers of {hostname}");
            let is_hidden = hostname.canonical() == BALANCER && !has_given;
            assert!(!is_hidden, "rule 15: deregisters {target}, which {hostname} may hide here");
        }
    }

    /// What a function registered in a shared group is known to be its own.
    pub(super) fn check_owned(&self) {
        for (claims, actor) in self.claims.iter().zip([0, 2]) {
            let orphans = &(&claims.owned - &claims.forgotten) - &self.state(actor).owned;
            let told = || format!("rule 8: no tag says whose {orphans:?} are: {:?}", self.group.tags());
            assert!(self.is_tampered || orphans.is_empty(), "{}", told());
        }
    }

    /// No run empties a group by itself.
    pub(super) fn check_not_empty(&self, me: usize, before: &BTreeSet<Target>) {
        let others = self.changed_at.iter().enumerate().filter(|(who, _)| *who != me);
        let is_alone = others.into_iter().all(|(_, at)| *at < self.notes[me].seen_at);
        let is_emptied = !before.is_empty() && self.group.registered().is_empty();
        assert!(!is_emptied || !is_alone, "rule 1: the run empties the group");
    }

    /// What must hold after a run that nothing disturbed.
    pub(super) fn check_calm(&self, me: usize, report: &GroupReport) {
        let notes = &self.notes[me];
        let group = self.bound_to(me);
        let desired = notes.desired(group, false);
        let registered = self.group.registered();
        let absent = &desired.targets - &registered;
        let kept_out = absent.iter().filter(|target| self.group.not_registrable.contains(&target.address)).count();
        let has_quota = self.group.quota >= 1000;
        let told = || format!("{report:#?}\n{:?}", self.group.tags());
        assert!(absent.len() == kept_out || !has_quota, "rules 1, 5 and 18: {absent:?} is not registered\n{}", told());
        let has_answers = notes.run.newest.values().all(Result::is_ok) && desired.is_complete;
        let is_able = has_answers && !self.is_unavailable && has_quota;
        let own = self.group.tags().keys().filter(|key| is_of_others(key)).count();
        let is_roomy = own + registered.len() + self.claims[0].given.len() + ROOM_FOR_ALL / 2 <= MOST_TAGS;
        let is_stuck = registered.iter().any(|target| self.group.not_deregistrable.contains(&target.address));
        let is_well = is_able && desired.is_usable && kept_out == 0 && is_roomy && !is_stuck;
        assert!(!is_well || report.failures.is_empty(), "nothing disturbed it\n{}", told());
        let must_fail = !desired.is_complete || !desired.is_usable || self.is_unavailable || kept_out > 0;
        assert!(!must_fail || !report.failures.is_empty(), "rules 2, 5 and 18: it does not fail\n{}", told());
        if !is_able || !notes.answer_in_full(group) {
            return;
        }
        let stale = &registered - &desired.targets;
        let held: BTreeSet<_> = report.held.iter().map(|held| held.target).collect();
        assert_eq!(held, stale, "the report names what stays\n{}", told());
        if desired.targets.is_disjoint(&registered) || !is_roomy {
            return;
        }
        for shown in self.group.list(self.now).iter().filter(|shown| stale.contains(&shown.target)) {
            let target = &shown.target;
            let is_kept = self.group.not_deregistrable.contains(&target.address) || self.stays(me, &desired, target);
            let waiting = report.waiting.iter().find(|waiting| waiting.target == *target);
            let left = waiting.map(|waiting| waiting.deregister_at.since(self.clock().time)).unwrap_or_default();
            let is_waiting = !left.is_zero() && left <= notes.grace(group, target);
            let is_new = shown.state == TargetState::Initial;
            assert!(is_kept || is_new || is_waiting, "{target} is kept too long\n{}", told());
        }
        let is_tidy = self.is_shared()
            || group.deregister_after_seconds.unwrap_or_default() == 0
            || !stale.is_empty()
            || !is_well;
        let is_missing = |key: &String| key.contains(":missing/");
        let is_clean = self.state(me).owned.is_empty() && !self.group.tags().keys().any(is_missing);
        assert!(is_tidy || is_clean, "rule 8: a tag is left\n{}", told());
    }

    /// Whether a target that no name gives stays for good, with a good reason.
    fn stays(&self, me: usize, desired: &Desired, target: &Target) -> bool {
        let State { owned, elsewhere, .. } = self.state(me);
        let is_foreign = !owned.contains(target) || elsewhere.contains(target);
        desired.refused.contains(&target.address) || (self.is_shared() && is_foreign)
    }

    /// What must hold when all had the time that it takes.
    pub(super) fn check_settled(&self) {
        let notes = &self.notes[0];
        let desired = notes.desired(self.bound_to(0), false);
        let is_sure = notes.answer_in_full(self.bound_to(0)) && !self.names[0].gives_samples();
        if !is_sure || !desired.is_complete || desired.targets.is_empty() {
            return;
        }
        let mut stale = &self.group.registered() - &desired.targets;
        stale.retain(|target| !self.stays(0, &desired, target));
        assert!(stale.is_empty(), "nobody's any more: {stale:?}, tags {:?}", self.group.tags());
    }
}
