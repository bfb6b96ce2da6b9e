//! What the runs of a history live in: DNS, a target group, and what is noted of them.

use super::*;

impl World for Universe {
    fn now(&self) -> Now {
        let passed = u64::try_from((self.now - self.start).as_millis()).unwrap();
        Now { at: self.now, time: Timestamp(EPOCH + passed - self.behind) }
    }

    fn wait(&mut self, until: Instant) {
        if self.is_alone {
            self.now = until;
        } else {
            self.wakes[self.acting] = until;
        }
    }

    fn ask(&mut self, hostname: &Hostname) -> Option<Result<Answer, ResolveError>> {
        self.requests += 1;
        let failure = match self.fault {
            Fault::Never => return None,
            Fault::None => None,
            Fault::Denied => Some(DnsFailure::Refused),
            Fault::Failed => Some(DnsFailure::ServFail),
            Fault::LostReply | Fault::TimedOut => Some(DnsFailure::TimeOut(Duration::from_secs(2))),
            Fault::Partial(_) => Some(DnsFailure::Malformed("cut short".to_owned())),
            Fault::Throttled => Some(DnsFailure::NxDomain),
            Fault::Unavailable => Some(DnsFailure::Transport("unreachable".to_owned())),
        };
        if let Some(failure) = failure {
            return Some(Err(resolve_error(failure)));
        }
        let at = self.now;
        // What is stated is true.
        let answers_in_full = self.setting.grace == Some(0) || self.setting.lookups == Some(1);
        let first = self.names[0].hostname.clone();
        let name =
            self.names.iter_mut().find(|name| name.hostname == *hostname).expect("only known names are asked for");
        let cache = if name.caches.number() > 0 { self.rng.usize(..name.caches.number()) } else { 0 };
        let told = self.told[self.acting].as_ref().filter(|_| *hostname == first);
        let (addresses, ttl) = name.caches.ask(if told.is_some() { usize::MAX } else { cache }, at, || {
            let given: Vec<_> = told.unwrap_or(&name.gives).iter().map(|host| address(*host)).collect();
            match self.rng.choice(&given) {
                Some(one) if name.gives_one && !answers_in_full => BTreeSet::from([*one]),
                _ => given.into_iter().collect(),
            }
        });
        if addresses.is_empty() {
            return Some(Err(resolve_error(DnsFailure::NoData("A"))));
        }
        Some(Ok(Answer { addresses, names: name.chain.clone(), ttl, longest_ttl: ttl, at }))
    }

    fn facts(&mut self) -> Option<Result<Facts, ElbError>> {
        self.read("DescribeTargetGroups", |_| Facts { port: PORTS[0], family: IpFamily::V4 })
    }

    fn list(&mut self) -> Option<Result<Vec<RegisteredTarget>, ElbError>> {
        let notes = &mut self.actors[self.acting];
        // Who has seen something does not see what was before.
        notes.seen_at = notes.seen_at.max(self.now - self.lag);
        let lag = self.now - notes.seen_at;
        if self.is_unavailable && self.fault == Fault::None {
            self.requests += 1;
            return Some(Err(elb_error("DescribeTargetHealth", ElbErrorKind::Unavailable, "HealthUnavailable")));
        }
        self.read("DescribeTargetHealth", |universe| universe.group.list(universe.now, lag))
    }

    fn tags(&mut self) -> Option<Result<Tags, ElbError>> {
        self.read("DescribeTags", |universe| universe.group.tags(universe.now, Duration::ZERO).clone())
    }

    fn add_tags(&mut self, tags: &Tags) -> Option<Result<(), ElbError>> {
        self.write("AddTags", |universe| universe.group.add_tags(tags, universe.now))
    }

    fn remove_tags(&mut self, keys: &[String]) -> Option<Result<(), ElbError>> {
        self.write("RemoveTags", |universe| {
            universe.group.remove_tags(keys, universe.now);
            Ok(())
        })
    }

    fn register(&mut self, targets: &BTreeSet<Target>) -> Option<Changed> {
        let acting = self.acting;
        let before = self.group.registered();
        let changed = self.change_targets("RegisterTargets", targets.clone(), |universe, targets| {
            universe.change(acting, |group, now| group.register(targets, now))
        });
        let claims = &mut self.claims[function_of(acting)];
        claims.targets.extend(targets);
        if self.actors[acting].is_shared() {
            claims.owned.extend(self.group.registered().difference(&before));
            claims.owned.extend(changed.iter().flat_map(|changed| &changed.accepted));
        }
        changed
    }

    fn deregister(&mut self, targets: &BTreeSet<RegisteredTarget>) -> Option<Changed> {
        let acting = self.acting;
        let targets: BTreeSet<_> = targets.iter().map(|shown| shown.target).collect();
        let before = self.group.registered();
        let changed = self.change_targets("DeregisterTargets", targets, |universe, targets| {
            universe.change(acting, |group, now| group.deregister(targets, now))
        });
        self.check_not_empty(&before);
        changed
    }

    fn order(&mut self) -> [Read; 3] {
        use Read::{Dns, Tags, Targets};
        let orders = [
            [Dns, Targets, Tags],
            [Dns, Tags, Targets],
            [Targets, Dns, Tags],
            [Targets, Tags, Dns],
            [Tags, Dns, Targets],
            [Tags, Targets, Dns],
        ];
        orders[self.order % orders.len()]
    }

    fn observe(&mut self, event: Event<'_>) {
        let now = World::now(self);
        if std::env::var_os("TRACE").is_some() {
            eprintln!("{} {:?} {event:?}", self.acting, self.now - self.start);
        }
        let notes = &mut self.actors[self.acting];
        match event {
            Event::Began { order, early } => {
                notes.begin(order, now);
                notes.was_well &= self.is_alone;
                if let Some(early) = early {
                    self.answered(&early.answers);
                }
            }
            Event::Decided(step) => self.decided(step),
            Event::Answered(answers) => self.answered(answers),
            Event::Looked(answers) => {
                notes.newest.clear();
                notes.saw.clear();
                self.answered(answers);
            }
            Event::Listed(Ok(listed), asked_at) => {
                notes.writes.retain(|target, write| {
                    let shown = listed.iter().find(|shown| shown.target == *target).map(|shown| shown.state);
                    asked_at - LONGEST_LAG <= write.at && !write.is_seen(shown, asked_at)
                });
                // What a list lacks that lags is forgotten, and stays longer.
                let is_listed =
                    |target| listed.iter().any(|shown| shown.target == target && shown.state.is_registered());
                self.noted.retain(|target, _| is_listed(*target));
                notes.list = Some(listed.clone());
                notes.listed_at = asked_at;
                self.note_absence();
            }
            Event::Listed(Err(error), _) => notes.is_unavailable |= error.kind == ElbErrorKind::Unavailable,
            Event::TagsRead(Ok(tags)) => notes.tags = Some(tags.clone()),
            Event::TagsRead(Err(error)) => notes.is_barred |= error.kind == ElbErrorKind::Denied,
            Event::Registered(Changed { accepted, refused, failed }) => {
                notes.registered.extend(accepted);
                notes.not_registrable.extend(refused.keys());
                for target in accepted {
                    let was_draining = notes.state_of(target) == Some(TargetState::Draining);
                    notes.writes.insert(*target, Written { at: now.at, change: Change::Registration { was_draining } });
                }
                match failed {
                    Some(error) if error.kind == ElbErrorKind::QuotaReached => notes.has_reached_quota = true,
                    failed => notes.has_failed |= failed.is_some(),
                }
            }
            Event::Deregistered(Changed { accepted, failed, .. }) => {
                notes.deregistered.extend(accepted);
                notes.has_failed |= failed.is_some();
                for target in accepted {
                    let state = notes.state_of(target).unwrap_or(TargetState::Initial);
                    notes.writes.insert(*target, Written { at: now.at, change: Change::Deregistration(state) });
                }
            }
            Event::Ended(report) => self.ended(report),
        }
    }
}

impl Universe {
    pub fn new(setting: Setting) -> Self {
        let start = Instant::now() + Duration::from_secs(3600);
        let ttl = Duration::from_secs(setting.ttl);
        let name = |chain: &[&str], gives_one| Name {
            hostname: chain[0].to_owned().try_into().unwrap(),
            chain: chain.iter().map(ToString::to_string).collect(),
            gives: BTreeSet::from([0]),
            gives_one,
            caches: Caches::new(ttl, setting.caches),
        };
        let first = match setting.kind {
            Kind::Chained => name(&["db.test", READER], true),
            Kind::Instance => name(&[INSTANCE], false),
            Kind::Plain => name(&["db.test"], false),
            Kind::Reader => name(&[READER], true),
        };
        let names = [first, name(&["other.test"], false), name(&["theirs.test"], false)];
        let empty = Rc::new(group(&names, setting, 0));
        Self {
            start,
            now: start,
            behind: 0,
            rng: Rng::with_seed(setting.seed),
            setting,
            group: TargetGroup::default(),
            names,
            told: [None, None, None],
            is_unavailable: false,
            lag: Duration::ZERO,
            acting: 0,
            fault: Fault::None,
            requests: 0,
            order: 0,
            is_alone: false,
            wakes: [start; 3],
            nonce: 0,
            actors: [0; 3].map(|_| Notes::new(start, Rc::clone(&empty))),
            seen_by_all: [None, None],
            left_at: BTreeMap::new(),
            changed_at: [None; 4],
            claims: Default::default(),
            missing_since: Default::default(),
            first_listed: BTreeMap::new(),
            noted: BTreeMap::new(),
            is_tampered: false,
        }
    }

    pub(super) fn error(&self, operation: &'static str) -> Option<ElbError> {
        let kind = match self.fault {
            Fault::None | Fault::Never | Fault::Partial(_) => return None,
            Fault::Denied => ElbErrorKind::Denied,
            Fault::Failed => ElbErrorKind::Failed,
            Fault::LostReply | Fault::TimedOut => ElbErrorKind::TimedOut,
            Fault::Throttled => ElbErrorKind::Throttled,
            Fault::Unavailable => ElbErrorKind::Unavailable,
        };
        Some(elb_error(operation, kind, "no"))
    }

    pub(super) fn read<T>(
        &mut self,
        operation: &'static str,
        read: impl FnOnce(&Self) -> T,
    ) -> Option<Result<T, ElbError>> {
        self.requests += 1;
        match self.error(operation) {
            Some(error) => Some(Err(error)),
            None if self.fault == Fault::Never => None,
            None => Some(Ok(read(self))),
        }
    }

    pub(super) fn write(
        &mut self,
        operation: &'static str,
        write: impl FnOnce(&mut Self) -> Result<(), ElbError>,
    ) -> Option<Result<(), ElbError>> {
        self.requests += 1;
        let error = self.error(operation);
        let is_done = error.is_none() || self.fault == Fault::LostReply;
        let result = if is_done { write(self) } else { Ok(()) };
        (self.fault != Fault::Never).then(|| error.map_or(result, Err))
    }

    pub(super) fn change_targets(
        &mut self,
        operation: &'static str,
        targets: BTreeSet<Target>,
        change: impl FnOnce(&mut Self, BTreeSet<Target>) -> Changed,
    ) -> Option<Changed> {
        self.requests += 1;
        let failed = self.error(operation);
        if let Fault::Partial(number) = self.fault {
            let part: BTreeSet<_> = targets.into_iter().take(number.into()).collect();
            let mut changed = if part.is_empty() { Changed::default() } else { change(self, part) };
            changed.failed.get_or_insert_with(|| elb_error(operation, ElbErrorKind::Failed, "no"));
            return Some(changed);
        }
        if failed.is_some() {
            if self.fault == Fault::LostReply {
                change(self, targets);
            }
            return Some(Changed { failed, ..Changed::default() });
        }
        let changed = change(self, targets);
        (self.fault != Fault::Never).then_some(changed)
    }

    /// Lets one of the actors, or somebody else, change targets.
    pub(super) fn change<T>(&mut self, who: usize, change: impl FnOnce(&mut TargetGroup, Instant) -> T) -> T {
        let before = self.group.registered();
        let result = change(&mut self.group, self.now);
        let after = self.group.registered();
        for target in before.difference(&after) {
            self.left_at.insert(*target, self.now);
            self.noted.remove(target);
            for notes in &mut self.actors {
                notes.known_since.remove(target);
            }
            for claims in &mut self.claims {
                claims.owned.remove(target);
            }
        }
        for target in after.difference(&before) {
            self.first_listed.entry(*target).or_insert(self.now);
        }
        if before != after {
            self.changed_at[who] = Some(self.now);
        }
        result
    }

    pub(super) fn was_registered_since(&self, target: &Target, since: Instant) -> bool {
        self.group.registered().contains(target) || self.left_at.get(target).is_some_and(|left| *left >= since)
    }

    pub(super) fn answered(&mut self, answers: &Answers) {
        let me = self.acting;
        let notes = &mut self.actors[me];
        for (hostname, answer) in answers {
            notes.newest.insert(hostname.clone(), answer.as_ref().ok().cloned());
            let Ok(answer) = answer else { continue };
            let addresses = &answer.addresses;
            notes.saw.entry(hostname.clone()).or_default().extend(addresses);
            notes.newest_good.insert(hostname.clone(), answer.clone());
            let largest = notes.largest.entry(hostname.clone()).or_default();
            *largest = addresses.len().max(*largest);
            let last = notes.last_answer.insert(hostname.clone(), addresses.clone());
            let known = notes.known.entry(hostname.clone()).or_default();
            let lacked = known.iter().filter(|address| last.as_ref().is_some_and(|last| !last.contains(*address)));
            let returned = lacked.filter(|address| addresses.contains(*address)).count();
            *notes.returns.entry(hostname.clone()).or_default() += returned;
            known.extend(addresses);
            for (_, port) in notes.group.members.iter().filter(|(bound, _)| bound == hostname) {
                let port = port.unwrap_or(PORTS[0]);
                notes.last_seen.extend(addresses.iter().map(|address| (Target { address: *address, port }, answer.at)));
            }
            self.claims[function_of(me)].given.extend(addresses);
        }
        self.note_absence();
    }

    /// Takes in what the acting one knows to be missing.
    pub(super) fn note_absence(&mut self) {
        let notes = &mut self.actors[self.acting];
        let (desired, refused, is_complete) = notes.surely_desired();
        notes.lacked_since.retain(|target, _| !desired.contains(target));
        notes.known_since.retain(|target, _| !desired.contains(target));
        self.noted.retain(|target, _| !desired.contains(target) && !refused.contains(&target.address));
        if is_complete {
            let is_missing = |target: &Target| !desired.contains(target);
            let listed: BTreeSet<_> = self.first_listed.keys().copied().filter(is_missing).collect();
            for target in &listed {
                notes.lacked_since.entry(*target).or_insert(self.now);
            }
            // What DNS gave once may be missing before it is registered.
            let given = self.claims.iter().flat_map(|claims| &claims.given);
            let given = given.flat_map(|address| PORTS.map(|port| Target { address: *address, port }));
            for target in listed.into_iter().chain(given.filter(is_missing)) {
                self.missing_since[function_of(self.acting)].entry(target).or_insert(self.now);
            }
        }
    }

    /// What must hold of a step.
    pub(super) fn decided(&mut self, step: &Step) {
        let me = self.acting;
        if step.is_write() {
            assert!(self.actors[me].mode != Mode::DryRun, "a dry run writes: {step:?}");
            // What is to be removed after others were added, was decided with these; and what is emptied because it could
            // not be removed, with that.
            let is_decided = match (step, &self.actors[me].last_tag_step) {
                (Step::RemoveTags(_), Some(Step::AddTags(_))) => true,
                (Step::AddTags(tags), Some(Step::RemoveTags(keys))) => {
                    tags.iter().all(|(key, value)| value.is_empty() && keys.contains(key))
                }
                _ => false,
            };
            if !is_decided {
                self.check_freshness(step);
            }
            let is_of_tags = matches!(step, Step::AddTags(_) | Step::RemoveTags(_));
            self.actors[me].last_tag_step = is_of_tags.then(|| step.clone());
        }
        match step {
            Step::AddTags(tags) => {
                let notes = &self.actors[me];
                assert!(tags.keys().all(|key| is_own(key, me)), "rule 8: touches tags of others: {tags:?}");
                let needs_state = notes.is_shared() || !notes.grace().is_zero();
                assert!(needs_state, "rule 8: writes state that nobody needs: {tags:?}");
                if !notes.is_shared() {
                    // Whose the others are is forgotten.
                    self.claims[function_of(me)].owned.clear();
                    let noted = tags.iter().flat_map(|(key, value)| entries(key, value)).map(|entry| entry.target);
                    let noted: BTreeSet<_> = noted.collect();
                    self.claims.iter_mut().for_each(|claims| claims.targets.extend(&noted));
                    // Such a tag names no function, so that another one goes by it as well.
                    let known = self.missing_since[function_of(me)].clone();
                    let other = &mut self.missing_since[1 - function_of(me)];
                    for (target, since) in known.into_iter().filter(|(target, _)| noted.contains(target)) {
                        other.entry(target).or_insert(since);
                    }
                }
            }
            Step::RemoveTags(keys) => {
                if !self.actors[me].is_shared() {
                    self.claims[function_of(me)].owned.clear();
                }
                assert!(keys.iter().all(|key| is_own(key, me)), "rule 8: touches tags of others: {keys:?}");
            }
            Step::Register(targets) => self.check_registration(targets),
            Step::Deregister(shown) => self.check_deregistration(shown),
            Step::Resolve { .. } => self.actors[me].looks += 1,
            Step::Reread { .. } => self.actors[me].lists += 1,
            Step::Done | Step::Pause(_) | Step::Read { .. } | Step::ReadTags => {}
        }
        if step.is_write() {
            let notes = &mut self.actors[me];
            notes.looks = 0;
            notes.lists = 0;
            notes.writes_of_run += 1;
        }
    }

    /// A run came to its end.
    pub(super) fn ended(&mut self, report: &GroupReport) {
        let notes = &mut self.actors[self.acting];
        notes.is_active = false;
        if notes.mode != Mode::DryRun {
            assert_eq!(report.registered, notes.registered, "the report tells what was registered");
            assert_eq!(report.deregistered, notes.deregistered, "the report tells what was deregistered");
        }
        // What DNS gives is not missing, whether AWS can tell the targets or not.
        let is_of_targets = |failure: &Failure| matches!(failure, Failure::Elb(error) if error.operation == "DescribeTargetHealth" && error.kind == ElbErrorKind::Unavailable);
        let is_done = report.failures.iter().all(is_of_targets) && notes.mode != Mode::DryRun;
        self.left(is_done);
    }

    /// A run came to its end, or was killed.
    pub(super) fn left(&mut self, is_done: bool) {
        let function = function_of(self.acting);
        let notes = &mut self.actors[self.acting];
        notes.is_active = false;
        let (desired, ..) = notes.desired();
        let saw = if is_done { desired } else { BTreeSet::new() };
        let by_all = match self.seen_by_all[function].take() {
            None => saw,
            Some(others) => &others & &saw,
        };
        let mut others = self.actors.iter().enumerate().filter(|(actor, _)| function_of(*actor) == function);
        if others.any(|(_, notes)| notes.is_active) {
            self.seen_by_all[function] = Some(by_all);
        } else {
            self.missing_since[function].retain(|target, _| !by_all.contains(target));
        }
    }

    pub(super) fn own_tags(&self) -> Tags {
        let tags = self.group.tags(self.now, Duration::ZERO);
        let own = tags.iter().filter(|(key, _)| (0..3).any(|actor| is_own(key, actor)));
        own.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    pub(super) fn set_tags(&mut self, change: impl FnOnce(&mut Tags)) {
        let before = self.group.tags(self.now, Duration::ZERO).clone();
        let mut after = before.clone();
        change(&mut after);
        let removed: Vec<_> = before.keys().filter(|key| !after.contains_key(*key)).cloned().collect();
        if !removed.is_empty() {
            self.group.remove_tags(&removed, self.now);
        }
        after.retain(|key, value| before.get(key) != Some(value));
        if !after.is_empty() {
            self.group.add_tags(&after, self.now).unwrap();
        }
    }

    /// What is registered.
    pub fn registered(&self) -> BTreeSet<Target> {
        self.group.registered()
    }

    /// Earlier runs wrote these tags.
    pub fn write_tags(&mut self, tags: &Tags) {
        self.set_tags(|present| present.extend(tags.clone()));
        for actor in [0, 2] {
            self.claims[function_of(actor)].targets.extend(owned(tags, actor));
        }
    }

    /// Takes the tags as they are for spoilt from now on.
    pub(super) fn tamper(&mut self) {
        self.is_tampered = true;
        self.noted.clear();
    }

    pub(super) fn room(&self) -> usize {
        let tags = self.group.tags(self.now, Duration::ZERO);
        MOST_TAGS - (tags.len() - self.own_tags().len())
    }

    pub(super) fn apply(&mut self, event: &Happening) {
        match event {
            Happening::ClockBack(seconds) => {
                let passed = u64::try_from((self.now - self.start).as_millis()).unwrap();
                self.behind = (self.behind + u64::from(*seconds) * 1000).min(EPOCH / 2 + passed);
                self.actors.iter_mut().for_each(|notes| notes.known_since.clear());
            }
            Happening::Corrupted(which, damage) => {
                let keys: Vec<_> = self.own_tags().into_keys().collect();
                if !keys.is_empty() {
                    self.set_tags(|tags| {
                        tags.entry(keys[which % keys.len()].clone()).and_modify(|value| damage.apply(value));
                    });
                    self.tamper();
                }
            }
            Happening::Dead(hosts) => self.group.dead = hosts.iter().map(|host| address(*host)).collect(),
            Happening::Dns(name, hosts) => self.names[name % 3].gives.clone_from(hosts),
            Happening::Drained => self.change(NOBODY, TargetGroup::finish_draining),
            Happening::HandDeregister(host, port) => {
                self.change(NOBODY, |group, now| group.deregister([target(*host, *port)], now));
            }
            Happening::HandRegister(from, number, port) => {
                self.change(NOBODY, |group, now| {
                    let refused = mem::take(&mut group.not_registrable);
                    let quota = mem::replace(&mut group.quota, 1000);
                    group.register((*from..=from + number).map(|host| target(host, *port)), now);
                    (group.not_registrable, group.quota) = (refused, quota);
                });
            }
            Happening::Lag(milliseconds) => self.lag = Duration::from_millis(*milliseconds),
            Happening::NotDeregistrable(hosts) => {
                self.group.not_deregistrable = hosts.iter().map(|host| address(*host)).collect();
            }
            Happening::NotRegistrable(hosts) => {
                self.group.not_registrable = hosts.iter().map(|host| address(*host)).collect();
            }
            Happening::OthersTags(number) => {
                let room = MOST_TAGS - self.own_tags().len();
                self.set_tags(|tags| {
                    tags.retain(|key, _| !is_of_others(key));
                    let others = FOREIGN.iter().map(ToString::to_string).chain((0..).map(|tag| format!("team:{tag}")));
                    tags.extend(others.take(*number.min(&room)).map(|key| (key, "theirs".to_owned())));
                });
                if self.room() <= ROOM_FOR_ALL {
                    self.tamper();
                }
            }
            Happening::Pass(milliseconds) => self.now += Duration::from_millis(*milliseconds),
            Happening::Quota(targets) => self.group.quota = *targets,
            Happening::Removed(which) => {
                let keys: Vec<_> = self.own_tags().into_keys().collect();
                let removed = match which {
                    Some(_) if keys.is_empty() => vec![],
                    Some(which) => vec![keys[which % keys.len()].clone()],
                    None => keys,
                };
                if !removed.is_empty() {
                    self.set_tags(|tags| tags.retain(|key, _| !removed.contains(key)));
                    self.tamper();
                }
            }
            Happening::Settings(ownership, grace, lookups) => {
                self.setting = Setting { ownership: *ownership, grace: *grace, lookups: *lookups, ..self.setting };
                self.noted.clear();
            }
            Happening::Told(actor, hosts) => self.told[actor % 3].clone_from(hosts),
            Happening::Unavailable(is_so) => self.is_unavailable = *is_so,
            Happening::Begin(..)
            | Happening::CalmRun
            | Happening::Go(..)
            | Happening::Kill(_)
            | Happening::Step(..) => unreachable!("the theatre plays these"),
        }
    }
}
