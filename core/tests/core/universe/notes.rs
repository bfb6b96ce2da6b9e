//! What is noted of an actor: what it was told and what it did, by what came to pass.

use super::*;

#[derive(Default)]
pub struct Notes {
    // Of its environment.
    pub told: BTreeMap<Hostname, Told>,
    pub last_seen: BTreeMap<Target, Instant>,
    /// Since when looks of all names have lacked a target in a row.
    pub lacked_since: BTreeMap<Target, Instant>,
    /// The names that a tag called rotating when it began; `None`: it has not begun.
    pub rotating: Option<BTreeSet<String>>,
    /// What the newest list showed of the time.
    pub seen_at: Option<Instant>,
    // Of its invocation.
    pub writes: BTreeMap<Target, Written>,
    pub is_dry: bool,
    /// In which order its reads come to pass, and until when it waits.
    pub order: usize,
    pub wakes: Option<Instant>,
    // Of its run.
    pub is_running: bool,
    pub run: RunNotes,
}

#[derive(Default)]
pub struct RunNotes {
    pub newest: Answers,
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
    /// Whether it waited for its turn since the last change.
    pub has_turn: bool,
    pub has_reached_quota: bool,
    pub has_made_room: bool,
    pub has_failed: bool,
    pub refused: BTreeSet<Target>,
    registered: BTreeSet<Target>,
    deregistered: BTreeSet<Target>,
}

/// What the answers of a name told.
#[derive(Default)]
pub struct Told {
    kind: Option<HostnameKind>,
    answers: u32,
    /// Which answer held an address last.
    given: BTreeMap<IpAddr, u32>,
    largest: usize,
    /// In how many answers an address came back.
    returns: usize,
}

/// A change of a target that AWS accepted.
#[derive(Clone, Copy)]
pub struct Written {
    at: Instant,
    /// In which state it was deregistered; `None`: it was registered.
    deregistered: Option<TargetState>,
}

/// What DNS gives, as far as a run knows.
pub struct Desired {
    pub targets: BTreeSet<Target>,
    /// The addresses that may be no targets.
    pub refused: BTreeSet<IpAddr>,
    /// Whether each name resolved, and whether each of those gives something that may be a target.
    pub is_complete: bool,
    pub is_usable: bool,
}

impl Notes {
    fn kind(&self, hostname: &Hostname) -> HostnameKind {
        self.told.get(hostname).and_then(|told| told.kind).unwrap_or_else(|| hostname.kind())
    }

    fn is_rotating(&self, hostname: &Hostname) -> bool {
        self.rotating.as_ref().is_some_and(|names| names.contains(hostname.canonical()))
    }

    /// Whether the answers of a name are samples; `None`: by what it answered it may be taken for one.
    pub fn is_sample(&self, group: &Group, hostname: &Hostname) -> Option<bool> {
        let stated = group.lookups.get(hostname).copied();
        if group.deregister_after_seconds == Some(0) || stated == Some(1) {
            return Some(false);
        }
        let is_doubtful = self.told.get(hostname).is_some_and(|told| told.returns >= 3 || told.largest >= 8);
        match self.kind(hostname) {
            _ if stated.is_some() || self.is_rotating(hostname) => Some(true),
            HostnameKind::Other => {
                if is_doubtful {
                    None
                } else {
                    Some(false)
                }
            }
            kind => Some(kind != HostnameKind::Instance),
        }
    }

    pub fn answer_in_full(&self, group: &Group) -> bool {
        group.hostnames().into_iter().all(|hostname| self.is_sample(group, hostname) == Some(false))
    }

    /// The names that a target is judged by.
    pub fn judges<'a>(&self, group: &'a Group, target: &Target) -> Vec<&'a Hostname> {
        let of_port = group.members.iter().filter(|(_, port)| port.unwrap_or(PORTS[0]) == target.port);
        let has_given = |hostname: &&Hostname| {
            self.told.get(*hostname).is_some_and(|told| told.given.contains_key(&target.address))
        };
        let (givers, others): (Vec<_>, Vec<_>) = of_port.map(|(hostname, _)| hostname).partition(has_given);
        if givers.is_empty() { others } else { givers }
    }

    /// How long a target must be missing.
    pub fn grace(&self, group: &Group, target: &Target) -> Duration {
        let of_name = |hostname: &Hostname| {
            if self.is_rotating(hostname) { 300 } else { self.kind(hostname).deregister_after_seconds() }
        };
        let by_names = || self.judges(group, target).into_iter().map(of_name).max().unwrap_or_default();
        Duration::from_secs(group.deregister_after_seconds.unwrap_or_else(by_names).into())
    }

    /// How many answers of a name in a row lacked an address, how many have to, and whether one ever held it.
    pub fn evidence(&self, group: &Group, hostname: &Hostname, address: IpAddr) -> (u32, u32, bool) {
        let registered = self.shown();
        // What this run registered may not be listed yet.
        let registered = registered.keys().filter(|target| !self.writes.contains_key(*target));
        let targets = registered.filter(|target| self.judges(group, target).contains(&hostname)).count();
        let Some(told) = self.told.get(hostname) else { return (0, 1, false) };
        let lacks = 1.0 - (told.largest as f64 / targets.max(1) as f64).min(1.0);
        let needed = (1..).find(|answers| lacks.powi(*answers) < 1e-13).unwrap();
        let given = told.given.get(&address);
        (told.answers - given.copied().unwrap_or_default(), u32::try_from(needed).unwrap(), given.is_some())
    }

    /// Of a name that may give samples or not: all that it gave to this run or, to be sure, no more than its newest answer.
    pub fn desired(&self, group: &Group, is_sure: bool) -> Desired {
        let mut desired =
            Desired { targets: BTreeSet::new(), refused: BTreeSet::new(), is_complete: true, is_usable: true };
        for (hostname, port) in &group.members {
            let newest = self.run.newest.get(hostname).and_then(|answer| answer.as_ref().ok());
            let addresses = match self.is_sample(group, hostname) {
                Some(true) => self.run.saw.get(hostname),
                None if !is_sure || newest.is_none() => self.run.saw.get(hostname),
                _ => newest.map(|answer| &answer.addresses),
            };
            desired.is_complete &= addresses.is_some();
            let (refused, usable): (Vec<IpAddr>, Vec<IpAddr>) =
                addresses.into_iter().flatten().partition(|address| is_public(**address));
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

    fn answered(&mut self, group: &Group, answers: &Answers) {
        self.run.newest.extend(answers.clone());
        for (hostname, answer) in answers {
            let Ok(answer) = answer else { continue };
            self.run.saw.entry(hostname.clone()).or_default().extend(&answer.addresses);
            let told = self.told.entry(hostname.clone()).or_default();
            let is_back = |address| told.given.get(address).is_some_and(|answer| *answer < told.answers);
            told.returns += usize::from(answer.addresses.iter().any(is_back));
            told.kind = Some(answer.kind());
            told.answers += 1;
            told.largest = told.largest.max(answer.addresses.len());
            told.given.extend(answer.addresses.iter().map(|address| (*address, told.answers)));
            for (_, port) in group.members.iter().filter(|(bound, _)| bound == hostname) {
                let port = port.unwrap_or(PORTS[0]);
                let given: Vec<_> = answer.addresses.iter().map(|address| Target { address: *address, port }).collect();
                self.lacked_since.retain(|target, _| !given.contains(target));
                self.last_seen.extend(given.into_iter().map(|target| (target, answer.at)));
            }
        }
    }

    /// It is shown this, which it asked for at that time.
    fn listed(&mut self, listed: Vec<RegisteredTarget>, asked_at: Instant) {
        self.writes.retain(|target, Written { at, deregistered }| {
            let state = listed.iter().find(|shown| shown.target == *target).map(|shown| shown.state);
            match (*deregistered, state) {
                (None, Some(TargetState::Draining)) => asked_at <= *at,
                (None, Some(_)) => true,
                (Some(before), Some(TargetState::Initial)) => before == TargetState::Initial || asked_at <= *at,
                _ => asked_at.saturating_duration_since(*at) <= BELIEVED,
            }
        });
        (self.run.list, self.run.listed_at) = (Some(listed), Some(asked_at));
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
        let notes = &mut self.notes[me];
        match listed {
            Ok(listed) => notes.listed(listed.clone(), asked_at),
            Err(error) => {
                notes.run.list = None;
                notes.run.is_unavailable |= error.kind == ElbErrorKind::Unavailable;
            }
        }
        self.note_absence(me);
    }

    /// Takes in what an actor knows to be missing now.
    fn note_absence(&mut self, me: usize) {
        let desired = self.notes[me].desired(&self.bound[function_of(me)], true);
        if !desired.is_complete {
            return;
        }
        // What DNS gave once may be missing before it is registered.
        let given = self.claims.iter().flat_map(|claims| &claims.given);
        let given = given.flat_map(|address| PORTS.map(|port| Target { address: *address, port }));
        let all: BTreeSet<_> = given.chain(self.first_listed.keys().copied()).collect();
        for target in all.difference(&desired.targets) {
            self.notes[me].lacked_since.entry(*target).or_insert(self.now);
            self.claims[function_of(me)].missing_since.entry(*target).or_insert(self.now);
        }
    }

    pub(super) fn changed(&mut self, me: usize, changed: &Changed, shown: Option<&BTreeSet<RegisteredTarget>>) {
        let Notes { run, writes, .. } = &mut self.notes[me];
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
        let Notes { run, is_dry, is_running, .. } = &mut self.notes[me];
        if !mem::take(is_running) || *is_dry {
            return;
        }
        assert_eq!(report.registered, run.registered, "the report tells what was registered");
        assert_eq!(report.deregistered, run.deregistered, "the report tells what was deregistered");
        let is_of_targets = |failure: &Failure| matches!(failure, Failure::Elb(error) if error.kind == ElbErrorKind::Unavailable && error.operation == "DescribeTargetHealth");
        let is_done = report.failures.iter().all(is_of_targets);
        if is_done && !self.notes.iter().any(|notes| notes.is_running) {
            let desired = self.notes[me].desired(self.bound_to(me), false);
            self.claims[function_of(me)].missing_since.retain(|target, _| !desired.targets.contains(target));
        }
    }
}
