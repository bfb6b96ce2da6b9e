//! What is noted of an actor: what it was told and what it did, by what came to pass.

use super::*;

pub struct Notes {
    // Of its environment.
    pub counts: BTreeMap<Hostname, Count>,
    pub last_seen: BTreeMap<Target, Instant>,
    /// Since when looks of all names have lacked a target in a row.
    pub lacked_since: BTreeMap<Target, Instant>,
    pub registered: Option<BTreeSet<Target>>,
    /// The names that a tag called rotating when it began; `None`: it has not begun.
    pub rotating: Option<BTreeSet<String>>,
    /// What the newest list showed of the time.
    pub seen_at: Instant,
    // Of its invocation.
    pub writes: BTreeMap<Target, Written>,
    pub is_dry: bool,
    // Of its run.
    pub is_running: bool,
    pub run: RunNotes,
}

#[derive(Default)]
pub struct RunNotes {
    pub newest: Answers,
    pub newest_good: BTreeMap<Hostname, Answer>,
    saw: BTreeMap<Hostname, BTreeSet<IpAddr>>,
    pub list: Option<Vec<RegisteredTarget>>,
    pub listed_at: Option<Instant>,
    pub is_unavailable: bool,
    pub tags: Option<Tags>,
    pub has_lost_tags: bool,
    /// How often DNS, and the targets, were asked for again since the last change.
    pub looks: u32,
    pub lists: u32,
    pub writes: usize,
    pub has_reached_quota: bool,
    pub has_made_room: bool,
    pub has_failed: bool,
    pub refused: BTreeSet<Target>,
    pub registered: BTreeSet<Target>,
    pub deregistered: BTreeSet<Target>,
}

/// A change of a target that AWS accepted.
#[derive(Clone, Copy)]
pub struct Written {
    pub at: Instant,
    /// In which state it was deregistered; `None`: it was registered.
    pub deregistered: Option<TargetState>,
}

/// What DNS gives, as far as a run knows.
pub struct Desired {
    pub targets: BTreeSet<Target>,
    /// The addresses that may be no targets.
    pub refused: BTreeSet<IpAddr>,
    /// Whether each name resolved.
    pub is_complete: bool,
    /// Whether each of those gives something that may be a target.
    pub is_usable: bool,
}

/// What an answer of a name is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answering {
    InFull,
    Sample,
    /// It may be taken for a sample by what it answered.
    Unknown,
}

impl Notes {
    pub fn new(now: Instant) -> Self {
        Self {
            counts: BTreeMap::new(),
            last_seen: BTreeMap::new(),
            lacked_since: BTreeMap::new(),
            registered: None,
            rotating: None,
            seen_at: now,
            writes: BTreeMap::new(),
            is_dry: false,
            is_running: false,
            run: RunNotes::default(),
        }
    }

    pub fn answering(&self, group: &Group, hostname: &Hostname) -> Answering {
        let stated = group.lookups.get(hostname).copied();
        if group.deregister_after_seconds == Some(0) || stated == Some(1) {
            return Answering::InFull;
        }
        match self.kind_of(hostname) {
            _ if stated.is_some() => Answering::Sample,
            Some(300) => Answering::Sample,
            None if self.is_rotating(hostname) => Answering::Sample,
            _ if self.is_large(hostname) => Answering::Unknown,
            None if self.counts.get(hostname).is_some_and(|count| count.returns >= 3) => Answering::Unknown,
            _ => Answering::InFull,
        }
    }

    /// Whether what it answered so far has to count as samples.
    pub fn must_count(&self, group: &Group, hostname: &Hostname) -> bool {
        let answering = self.answering(group, hostname);
        answering == Answering::Sample || (answering == Answering::Unknown && self.is_large(hostname))
    }

    fn is_large(&self, hostname: &Hostname) -> bool {
        self.counts.get(hostname).is_some_and(|count| count.largest >= 8)
    }

    /// The grace of a name that AWS gave; `None`: it is one's own.
    fn kind_of(&self, hostname: &Hostname) -> Option<u64> {
        let chain = self.counts.get(hostname).map_or(&[][..], |count| &count.names);
        let mut names = [hostname.canonical()].into_iter().chain(chain.iter().map(String::as_str));
        if names.any(|name| name == READER || name == BALANCER) {
            Some(300)
        } else {
            (hostname.canonical() == INSTANCE).then_some(0)
        }
    }

    fn is_rotating(&self, hostname: &Hostname) -> bool {
        self.rotating.as_ref().is_some_and(|names| names.contains(hostname.canonical()))
    }

    pub fn answer_in_full(&self, group: &Group) -> bool {
        group.hostnames().into_iter().all(|hostname| self.answering(group, hostname) == Answering::InFull)
    }

    /// The names that a target is judged by.
    pub fn judges<'a>(&self, group: &'a Group, target: &Target) -> Vec<&'a Hostname> {
        let of_port = group.members.iter().filter(|(_, port)| port.unwrap_or(PORTS[0]) == target.port);
        let of_port = of_port.map(|(hostname, _)| hostname);
        let has_given =
            |hostname: &&Hostname| self.counts.get(*hostname).is_some_and(|count| count.has_given(target.address));
        let (givers, others): (Vec<_>, Vec<_>) = of_port.partition(has_given);
        if givers.is_empty() { others } else { givers }
    }

    /// How long a target must be missing.
    pub fn grace(&self, group: &Group, target: &Target) -> Duration {
        let of_name = |hostname: &Hostname| {
            let is_sample = self.is_large(hostname) || self.is_rotating(hostname);
            if is_sample { 300 } else { self.kind_of(hostname).unwrap_or_default() }
        };
        let by_names = || self.judges(group, target).into_iter().map(of_name).max().unwrap_or_default();
        Duration::from_secs(group.deregister_after_seconds.map_or_else(by_names, u64::from))
    }

    /// Of a name that may give samples or not: all that it gave to this run or, to be sure, no more than its newest answer.
    pub fn desired(&self, group: &Group, is_sure: bool) -> Desired {
        let mut desired =
            Desired { targets: BTreeSet::new(), refused: BTreeSet::new(), is_complete: true, is_usable: true };
        for (hostname, port) in &group.members {
            let newest = || self.run.newest.get(hostname)?.as_ref().ok().map(|answer| answer.addresses.clone());
            let addresses = match self.answering(group, hostname) {
                Answering::InFull => newest(),
                Answering::Unknown if is_sure && newest().is_some() => newest(),
                Answering::Sample | Answering::Unknown => self.run.saw.get(hostname).cloned(),
            };
            desired.is_complete &= addresses.is_some();
            let (refused, usable): (Vec<_>, Vec<_>) =
                addresses.into_iter().flatten().partition(|address| is_public(*address));
            desired.is_usable &= refused.is_empty() || !usable.is_empty();
            desired.refused.extend(refused);
            let port = port.unwrap_or(PORTS[0]);
            desired.targets.extend(usable.into_iter().map(|address| Target { address, port }));
        }
        desired
    }

    /// What is registered as far as it knows, what AWS accepted included.
    pub fn shown(&self) -> BTreeMap<Target, TargetState> {
        let listed = self.run.list.iter().flatten().map(|shown| (shown.target, shown.state));
        let mut shown: BTreeMap<_, _> = listed.collect();
        for (target, written) in &self.writes {
            match written.deregistered {
                Some(_) => drop(shown.get_mut(target).map(|state| *state = TargetState::Draining)),
                None => {
                    // A list that is older than the registration may show it draining.
                    let state = shown.entry(*target).or_insert(TargetState::Initial);
                    *state = if state.is_registered() { *state } else { TargetState::Initial };
                }
            }
        }
        shown.retain(|_, state| state.is_registered());
        shown
    }

    /// It begins to look at DNS: at all names, or at some once more.
    pub fn look(&mut self, is_anew: bool) {
        if !self.is_running && is_anew {
            self.run = RunNotes::default();
        }
        self.run.looks += 1;
    }

    /// It is told this.
    pub fn answered(&mut self, group: &Group, answers: &Answers) {
        for (hostname, answer) in answers {
            self.run.newest.insert(hostname.clone(), answer.clone());
            let Ok(answer) = answer else { continue };
            self.run.newest_good.insert(hostname.clone(), answer.clone());
            self.run.saw.entry(hostname.clone()).or_default().extend(&answer.addresses);
            self.counts.entry(hostname.clone()).or_default().add(answer);
            for (_, port) in group.members.iter().filter(|(bound, _)| bound == hostname) {
                let port = port.unwrap_or(PORTS[0]);
                let given: Vec<_> = answer.addresses.iter().map(|address| Target { address: *address, port }).collect();
                self.lacked_since.retain(|target, _| !given.contains(target));
                self.last_seen.extend(given.into_iter().map(|target| (target, answer.at)));
            }
        }
    }

    /// It is shown this, which it asked for at that time.
    pub fn listed(&mut self, group: &Group, listed: Vec<RegisteredTarget>, asked_at: Instant, now: Instant) {
        self.writes.retain(|target, Written { at, deregistered }| {
            let state = listed.iter().find(|shown| shown.target == *target).map(|shown| shown.state);
            match (*deregistered, state) {
                (None, Some(TargetState::Draining)) => asked_at <= *at,
                (None, Some(_)) => true,
                (Some(before), Some(TargetState::Initial)) => before == TargetState::Initial || asked_at <= *at,
                _ => asked_at.saturating_duration_since(*at) <= BELIEVED,
            }
        });
        self.run.list = Some(listed);
        self.run.listed_at = Some(asked_at);
        let registered: BTreeSet<_> = self.shown().into_keys().collect();
        for target in &registered {
            let is_new = self.registered.as_ref().is_some_and(|before| !before.contains(target));
            for (hostname, _) in group.members.iter().filter(|(_, port)| port.unwrap_or(PORTS[0]) == target.port) {
                self.counts.entry(hostname.clone()).or_default().expect(target.address, is_new, now);
            }
        }
        self.registered = Some(registered);
    }
}

impl Universe {
    pub(super) fn answered(&mut self, me: usize, answers: &Answers) {
        let given = answers.values().flatten().flat_map(|answer| &answer.addresses);
        self.claims[function_of(me)].given.extend(given);
        let group = Rc::clone(&self.bound[function_of(me)]);
        self.notes[me].answered(&group, answers);
        self.note_absence(me);
    }

    pub(super) fn listed(&mut self, me: usize, listed: &Result<Vec<RegisteredTarget>, ElbError>, asked_at: Instant) {
        let group = Rc::clone(&self.bound[function_of(me)]);
        let notes = &mut self.notes[me];
        match listed {
            Ok(listed) => notes.listed(&group, listed.clone(), asked_at, self.now),
            Err(error) => {
                notes.run.list = None;
                notes.run.is_unavailable |= error.kind == ElbErrorKind::Unavailable;
            }
        }
        self.note_absence(me);
    }

    /// Takes in what an actor knows to be missing now.
    fn note_absence(&mut self, me: usize) {
        let group = Rc::clone(&self.bound[function_of(me)]);
        let notes = &mut self.notes[me];
        let desired = notes.desired(&group, true);
        if !desired.is_complete {
            return;
        }
        // What DNS gave once may be missing before it is registered.
        let given = self.claims.iter().flat_map(|claims| &claims.given);
        let given = given.flat_map(|address| PORTS.map(|port| Target { address: *address, port }));
        for target in given.chain(self.first_listed.keys().copied()) {
            if !desired.targets.contains(&target) {
                notes.lacked_since.entry(target).or_insert(self.now);
                self.missing_since[function_of(me)].entry(target).or_insert(self.now);
            }
        }
    }

    pub(super) fn changed(&mut self, me: usize, changed: &Changed, shown: Option<&BTreeSet<RegisteredTarget>>) {
        let Notes { run, writes, registered, .. } = &mut self.notes[me];
        if shown.is_none() {
            registered.iter_mut().for_each(|registered| registered.extend(&changed.accepted));
        }
        let done = if shown.is_some() { &mut run.deregistered } else { &mut run.registered };
        done.extend(&changed.accepted);
        for target in &changed.accepted {
            let state = shown.and_then(|shown| shown.iter().find(|shown| shown.target == *target));
            writes.insert(*target, Written { at: self.now, deregistered: state.map(|shown| shown.state) });
        }
        if shown.is_some() {
            run.has_made_room |= mem::take(&mut run.has_reached_quota);
        } else {
            run.refused.extend(changed.refused.keys());
        }
        match &changed.failed {
            Some(error) if error.kind == ElbErrorKind::QuotaReached => run.has_reached_quota = true,
            failed => run.has_failed |= failed.is_some(),
        }
    }

    /// A run came to its end, or a watch saw something to tell.
    pub(super) fn ended(&mut self, me: usize, report: &GroupReport) {
        if !mem::take(&mut self.notes[me].is_running) {
            return;
        }
        let Notes { run, is_dry, .. } = &self.notes[me];
        if *is_dry {
            return;
        }
        assert_eq!(report.registered, run.registered, "the report tells what was registered");
        assert_eq!(report.deregistered, run.deregistered, "the report tells what was deregistered");
        let is_of_targets = |failure: &Failure| matches!(failure, Failure::Elb(error) if error.kind == ElbErrorKind::Unavailable && error.operation == "DescribeTargetHealth");
        let is_done = report.failures.iter().all(is_of_targets);
        if is_done && !self.notes.iter().any(|notes| notes.is_running) {
            let desired = self.notes[me].desired(self.bound_to(me), false);
            self.missing_since[function_of(me)].retain(|target, _| !desired.targets.contains(target));
        }
    }
}
