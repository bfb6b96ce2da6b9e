//! A run over one target group in a time of its own, without sockets, step by step: what the pure code decides, carried
//! out in the order of `src/reconcile.rs`. The histories let two of these interleave; the simulation lets a week pass.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::IpAddr,
    num::NonZeroU16,
    time::Duration,
};

use nlb_hostname_targets::{
    binding::Ownership,
    kind::HostnameKind,
    plan::{Desired, Plan, Policy},
    sampling::{Sampling, time_to_collect},
    state::{MOST_TAGS, State, TagChanges, Tags, Timestamp, is_ours},
    target::{RegisteredTarget, Target, TargetState},
};

/// What a binding says of a target group with one hostname.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) policy: Policy,
    pub(crate) kind: HostnameKind,
    pub(crate) lookups: Option<u32>,
}

/// What surrounds a run.
pub(crate) trait World {
    /// How much time has passed since the beginning.
    fn now(&self) -> Duration;
    /// What the clock shows, which may be set back.
    fn clock(&self) -> Timestamp;
    fn ask_dns(&mut self) -> Option<Answer>;
    /// Makes a call. Returned is the target group as the call left it, or nothing where it failed.
    fn call(&mut self, call: &Call) -> Option<&TargetGroup>;
}

/// What DNS says.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Those of them that `ALLOWED_CIDRS` refuses.
    pub(crate) refused: BTreeSet<IpAddr>,
    pub(crate) ttl: Duration,
    /// Whether the other hostnames of the target group resolved.
    pub(crate) others_resolved: bool,
}

/// A call of ELBv2.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Call {
    AddTags(Tags),
    DeregisterTargets(BTreeSet<Target>),
    DescribeTags,
    DescribeTargetHealth,
    RegisterTargets(BTreeSet<Target>),
    RemoveTags(Vec<String>),
}

/// A target group as ELBv2 keeps it.
#[derive(Clone, Debug, Default)]
pub(crate) struct TargetGroup {
    pub(crate) targets: BTreeMap<Target, TargetState>,
    pub(crate) tags: Tags,
}

/// A run.
#[derive(Debug)]
pub(crate) struct Run {
    settings: Settings,
    /// Whether one answer is to suffice.
    is_quick: bool,
    cutoff: Duration,
    next: Next,
    listed: Vec<RegisteredTarget>,
    read_at: Duration,
    rereads: u32,
    tags: Tags,
    state: State,
    /// Whether the tags could be read and written so far.
    usable: bool,
    /// Of a name that gives samples, all that was collected.
    answer: Option<Answer>,
    answered_at: Duration,
    refreshed: u32,
    sampling: Option<Sampling>,
    /// Whether as many answers were collected as there was time for.
    collected: bool,
    collect_until: Option<Duration>,
    has_failed_looks: bool,
    /// Whether the targets could not be changed.
    has_failed_writes: bool,
    /// When it began to act, by the clock.
    began: Option<Timestamp>,
    /// Whether something went wrong that the run goes on after.
    failed: bool,
}

/// What a run does next.
#[derive(Clone, Debug)]
enum Next {
    Act,
    AddTags(Tags),
    /// Collects answers, until one holds an address that is not `known`.
    Collect {
        known: BTreeSet<IpAddr>,
        unseen: BTreeSet<IpAddr>,
    },
    Look {
        known: BTreeSet<IpAddr>,
        unseen: BTreeSet<IpAddr>,
    },
    Read(Vec<Read>),
    RemoveTags(Vec<String>),
}

/// What a run reads first, in any order.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Read {
    Dns,
    Tags,
    Targets,
}

/// What came of a step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    Called,
    Ended { failed: bool },
    Paused(Duration),
}

impl Call {
    #[allow(dead_code, reason = "the simulation counts by it")]
    pub(crate) fn action(&self) -> &'static str {
        match self {
            Self::AddTags(_) => "AddTags",
            Self::DeregisterTargets(_) => "DeregisterTargets",
            Self::DescribeTags => "DescribeTags",
            Self::DescribeTargetHealth => "DescribeTargetHealth",
            Self::RegisterTargets(_) => "RegisterTargets",
            Self::RemoveTags(_) => "RemoveTags",
        }
    }
}

impl TargetGroup {
    pub(crate) fn apply(&mut self, call: &Call) {
        match call {
            Call::AddTags(tags) => self.tags.extend(tags.clone()),
            Call::DeregisterTargets(targets) => {
                for target in targets {
                    // It succeeds, too, where there is no such target.
                    self.targets.entry(*target).and_modify(|state| *state = TargetState::Draining);
                }
            }
            Call::DescribeTags | Call::DescribeTargetHealth => {}
            Call::RegisterTargets(targets) => {
                for target in targets {
                    let state = self.targets.entry(*target).or_insert(TargetState::Other);
                    if *state == TargetState::Draining {
                        *state = TargetState::Other;
                    }
                }
            }
            Call::RemoveTags(keys) => self.tags.retain(|key, _| !keys.contains(key)),
        }
    }

    pub(crate) fn registered(&self) -> BTreeSet<Target> {
        self.targets.iter().filter(|(_, state)| state.is_registered()).map(|(target, _)| *target).collect()
    }
}

impl Run {
    /// A run that is given up at `cutoff`. What it needs to know is read from the last to the
    /// first of `reads`.
    pub(crate) fn new(settings: Settings, is_quick: bool, cutoff: Duration, mut reads: Vec<Read>) -> Self {
        if !settings.policy.needs_state() {
            reads.retain(|read| !matches!(read, Read::Tags));
        }
        Self {
            settings,
            is_quick,
            cutoff,
            next: Next::Read(reads),
            listed: Vec::new(),
            read_at: Duration::MAX,
            rereads: 0,
            tags: Tags::new(),
            state: State::default(),
            usable: false,
            answer: None,
            answered_at: Duration::ZERO,
            refreshed: 0,
            sampling: None,
            collected: false,
            collect_until: None,
            has_failed_looks: false,
            has_failed_writes: false,
            began: None,
            failed: false,
        }
    }

    /// Goes on to the next call, look or pause, and over it.
    pub(crate) fn step(&mut self, world: &mut impl World) -> Step {
        if world.now() >= self.cutoff {
            return Step::Ended { failed: true };
        }
        match mem::replace(&mut self.next, Next::Act) {
            Next::Act => self.act(world),
            Next::AddTags(tags) => self.add_tags(world, tags, Vec::new()),
            Next::Collect { known, unseen } => self.collect(world, known, unseen),
            Next::Look { known, mut unseen } => {
                self.ask(world, true);
                let seen = self.answer.as_ref().map(|answer| answer.addresses.clone()).unwrap_or_default();
                if seen == known {
                    unseen.retain(|address| !seen.contains(address));
                    self.next = Next::Collect { known, unseen };
                }
                Step::Called
            }
            Next::Read(mut reads) => {
                let read = reads.pop();
                if !reads.is_empty() {
                    self.next = Next::Read(reads);
                }
                match read {
                    Some(Read::Dns) => self.ask(world, false),
                    Some(Read::Tags) => self.read_tags(world),
                    Some(Read::Targets) => self.read_targets(world),
                    None => self.act(world),
                }
            }
            Next::RemoveTags(keys) => self.remove_tags(world, keys),
        }
    }

    fn act(&mut self, world: &mut impl World) -> Step {
        let policy = self.settings.policy;
        let is_shared = policy.ownership == Ownership::Shared;
        let now = world.now();
        if self.answer.is_some() && now - self.answered_at > OLDEST_ANSWER && self.refreshed < 2 {
            self.refreshed += 1;
            return self.ask(world, self.refreshed == 1 || !self.collected);
        }
        self.refreshed = 0;
        let began = *self.began.get_or_insert_with(|| world.clock());
        let collecting = self.sampling.as_ref().is_some_and(Sampling::is_sample) && !self.collected;
        let mut desired = self.desired();
        let all_resolved = desired.complete;
        let memory_is_missing = policy.needs_state() && !self.usable;
        let is_conclusive = self.sampling.as_ref().is_none_or(Sampling::is_conclusive);
        desired.complete = all_resolved && !collecting && is_conclusive && !memory_is_missing;
        let plan = Plan::new(&desired, &self.listed, &self.state, policy, began, world.clock());
        let (tags, left_out) =
            if self.usable { self.tag_changes(&plan.state, world.clock()) } else { (TagChanges::default(), 0) };
        let changes_state = !tags.is_empty();
        let (turned_down, mut missing): (BTreeSet<Target>, BTreeSet<Target>) = plan
            .register
            .iter()
            .partition(|target| is_shared && memory_is_missing && !self.state.owned.contains(target));
        let mut deregister: BTreeSet<_> = plan.deregister.iter().map(|shown| shown.target).collect();
        if !turned_down.is_empty() {
            deregister.clear();
        }
        if self.has_failed_writes {
            missing.clear();
            deregister.clear();
        }
        let has_more_to_ask = collecting && !self.is_quick;
        if missing.is_empty() && deregister.is_empty() && (!changes_state || has_more_to_ask) {
            if has_more_to_ask {
                let known = self.answer.as_ref().map(|answer| answer.addresses.clone()).unwrap_or_default();
                let unseen = plan.held.iter().map(|target| target.address);
                let unseen = unseen.filter(|address| all_resolved && !desired.refused.contains(address)).collect();
                return self.collect(world, known, unseen);
            }
            return Step::Ended { failed: self.failed || !all_resolved || left_out > 0 };
        }
        if now - self.read_at > OLDEST_ANSWER && self.rereads < MOST_REREADS {
            self.rereads += 1;
            if self.usable {
                self.next = Next::Read(vec![Read::Tags]);
            }
            return self.read_targets(world);
        }
        self.rereads = 0;
        if changes_state && (is_shared || (missing.is_empty() && deregister.is_empty())) {
            return self.write_tags(world, tags);
        }
        let call =
            if missing.is_empty() { Call::DeregisterTargets(deregister) } else { Call::RegisterTargets(missing) };
        if world.call(&call).is_none() {
            self.failed = true;
            self.has_failed_writes = true;
            return Step::Called;
        }
        match call {
            Call::RegisterTargets(targets) => {
                self.listed.retain(|shown| !targets.contains(&shown.target));
                self.listed.extend(targets.iter().map(|target| listed(*target, TargetState::Other)));
            }
            Call::DeregisterTargets(targets) => {
                for shown in self.listed.iter_mut().filter(|shown| targets.contains(&shown.target)) {
                    shown.state = TargetState::Draining;
                }
            }
            _ => {}
        }
        Step::Called
    }

    fn collect(&mut self, world: &mut impl World, known: BTreeSet<IpAddr>, unseen: BTreeSet<IpAddr>) -> Step {
        let now = world.now();
        let until = *self.collect_until.get_or_insert_with(|| now + time_to_collect(self.cutoff.saturating_sub(now)));
        let sampling = self.sampling.as_ref().filter(|_| self.answer.is_some());
        if let Some(pause) = sampling.and_then(|it| it.next(!unseen.is_empty(), until.saturating_sub(now))) {
            self.next = Next::Look { known, unseen };
            return Step::Paused(pause);
        }
        self.collected = true;
        self.failed |= self.has_failed_looks && sampling.is_some_and(|sampling| !sampling.is_conclusive());
        self.act(world)
    }

    fn ask(&mut self, world: &mut impl World, may_fail: bool) -> Step {
        let answer = world.ask_dns();
        let now = world.now();
        let kind = self.settings.kind;
        match (answer, &mut self.answer, &mut self.sampling) {
            (Some(mut answer), Some(earlier), Some(sampling)) => {
                sampling.add(&answer.addresses, kind, answer.ttl, now - self.answered_at);
                if sampling.is_sample() {
                    answer.addresses.extend(&earlier.addresses);
                    answer.refused.extend(&earlier.refused);
                }
                self.answer = Some(answer);
                self.answered_at = now;
            }
            (Some(answer), ..) => {
                let mut sampling = Sampling::new(self.settings.lookups);
                sampling.add(&answer.addresses, kind, answer.ttl, Duration::ZERO);
                self.sampling = Some(sampling);
                self.answer = Some(answer);
                self.answered_at = now;
            }
            (None, Some(_), Some(sampling)) if sampling.is_sample() && may_fail => {
                sampling.fail();
                self.has_failed_looks = true;
            }
            (None, ..) => self.answer = None,
        }
        Step::Called
    }

    fn read_targets(&mut self, world: &mut impl World) -> Step {
        let Some(group) = world.call(&Call::DescribeTargetHealth) else { return Step::Ended { failed: true } };
        self.listed = group.targets.iter().map(|(target, state)| listed(*target, *state)).collect();
        self.has_read(world.now());
        Step::Called
    }

    fn read_tags(&mut self, world: &mut impl World) -> Step {
        match world.call(&Call::DescribeTags) {
            Some(group) => {
                self.tags = group.tags.clone();
                (self.state, _) = State::read(&self.tags);
                self.usable = true;
                self.has_read(world.now());
            }
            None if self.rereads == 0 && self.settings.policy.ownership == Ownership::Exclusive => self.failed = true,
            None => return Step::Ended { failed: true },
        }
        Step::Called
    }

    /// What is read first is as old as the older part of it.
    fn has_read(&mut self, now: Duration) {
        self.read_at = if self.rereads == 0 { self.read_at.min(now) } else { now };
    }

    fn write_tags(&mut self, world: &mut impl World, TagChanges { mut add, remove }: TagChanges) -> Step {
        let together: BTreeSet<_> = self.tags.keys().chain(add.keys()).collect();
        if add.is_empty() || (!remove.is_empty() && together.len() > MOST_TAGS) {
            // There is no room for the new ones beside the old ones.
            add.retain(|_, value| !value.is_empty());
            if !add.is_empty() {
                self.next = Next::AddTags(add);
            }
            return self.remove_tags(world, remove);
        }
        self.add_tags(world, add, remove)
    }

    fn add_tags(&mut self, world: &mut impl World, add: Tags, remove: Vec<String>) -> Step {
        if world.call(&Call::AddTags(add.clone())).is_none() {
            return self.forget();
        }
        self.tags.extend(add);
        (self.state, _) = State::read(&self.tags);
        if !remove.is_empty() {
            self.next = Next::RemoveTags(remove);
        }
        Step::Called
    }

    fn remove_tags(&mut self, world: &mut impl World, keys: Vec<String>) -> Step {
        if world.call(&Call::RemoveTags(keys.clone())).is_none() {
            self.failed = true;
            // A time that was dropped must not be found again.
            let blank: Tags = keys.iter().map(|key| (key.clone(), String::new())).collect();
            let says_something = keys.iter().any(|key| self.tags.get(key).is_some_and(|value| !value.is_empty()));
            if says_something && world.call(&Call::AddTags(blank)).is_none() {
                return self.forget();
            }
        }
        self.tags.retain(|key, _| !keys.contains(key));
        (self.state, _) = State::read(&self.tags);
        Step::Called
    }

    /// What was to be remembered could not be written.
    fn forget(&mut self) -> Step {
        self.failed = true;
        self.usable = false;
        self.next = Next::Act;
        Step::Called
    }

    fn desired(&self) -> Desired {
        let Some(answer) = &self.answer else {
            return Desired { targets: BTreeSet::new(), refused: BTreeSet::new(), complete: false };
        };
        let usable = answer.addresses.difference(&answer.refused);
        let targets: BTreeSet<_> = usable.map(|address| Target { address: *address, port: PORT }).collect();
        Desired { complete: answer.others_resolved && !targets.is_empty(), targets, refused: answer.refused.clone() }
    }

    fn tag_changes(&self, state: &State, now: Timestamp) -> (TagChanges, usize) {
        let foreign = self.tags.keys().filter(|key| !is_ours(key)).count();
        let ownership = self.settings.policy.ownership;
        let (wanted, left_out) = state.write(ownership, MOST_TAGS.saturating_sub(foreign));
        (TagChanges::new(&self.tags, wanted, ownership, now), left_out)
    }
}

fn listed(target: Target, state: TargetState) -> RegisteredTarget {
    RegisteredTarget { target, id: target.address.to_string(), availability_zone: None, state }
}

/// The port of all targets.
pub(crate) const PORT: NonZeroU16 = NonZeroU16::new(5432).unwrap();

const OLDEST_ANSWER: Duration = Duration::from_secs(2);

const MOST_REREADS: u32 = 2;
