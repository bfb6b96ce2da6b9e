//! Histories of one target group: what DNS, AWS, people and killed processes do while runs of one or two functions follow
//! the names, step by step. The runs are the product's; what is checked of them is the contract, by what really was.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt, mem,
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU16,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use fastrand::Rng;
use nlb_hostname_targets::{
    binding::Group,
    failure::{DnsFailure, ElbError, ElbErrorKind, ResolveError},
    hostname::Hostname,
    network::AllowedNetworks,
    policy::Ownership,
    report::GroupReport,
    resolution::{Answer, Answers},
    run::{Mode, Now, Step},
    state::Timestamp,
    tags::{MOST_TAGS, Tags},
    target::{Facts, IpFamily, RegisteredTarget, Target, TargetState},
};

use crate::virtual_world::{
    Caches, Changed, Environment, Event, Order, Pace, Read, TargetGroup, World, alone, elb_error, resolve_error,
};

/// What happens next.
#[derive(Clone, Debug)]
pub enum Happening {
    /// A run, or a watch, begins where none is under way: how, and in which order it reads.
    Begin(usize, How, usize),
    /// A run of each function from its beginning to its end, while nothing else happens.
    CalmRun,
    /// The clock is set back by so many seconds.
    ClockBack(u32),
    /// Somebody spoils the value of a tag of ours.
    Corrupted(usize, Damage),
    /// These hosts fail their health checks.
    Dead(BTreeSet<u8>),
    /// From now on DNS gives these hosts for this name.
    Dns(usize, BTreeSet<u8>),
    /// Targets that drain are gone.
    Drained,
    /// A run goes on by so many requests and replies.
    Go(usize, u8),
    HandDeregister(u8, usize),
    HandRegister(u8, u8, usize),
    /// A process dies, wherever its run is, and with it what it remembers.
    Kill(usize),
    /// Reads of targets lag by so many milliseconds.
    Lag(u64),
    /// What AWS refuses.
    NotDeregistrable(BTreeSet<u8>),
    NotRegistrable(BTreeSet<u8>),
    /// Others have so many tags on the target group.
    OthersTags(usize),
    /// Milliseconds pass.
    Pass(u64),
    Quota(usize),
    /// Somebody removes a tag of ours, or all of them.
    Removed(Option<usize>),
    /// Runs that begin later go by this.
    Settings(Ownership, Option<u32>, Option<u32>),
    /// A run goes on until a request of its is answered like this. Or it begins.
    Step(usize, Fault),
    /// The name server of one actor gives these hosts for the first name, whatever others say.
    Told(usize, Option<BTreeSet<u8>>),
    /// AWS can't tell the targets, until it can.
    Unavailable(bool),
}

/// Events in their order, which are shown one in a line.
#[derive(Clone)]
pub struct History(pub Vec<Happening>);

impl fmt::Debug for History {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|event| write!(formatter, "\n    {event:?}"))
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum How {
    DryRun,
    Full,
    /// A run, then a watch of so many seconds.
    Watch(u8),
}

#[derive(Clone, Copy, Debug)]
pub enum Damage {
    Cut(usize),
    Emptied,
    Garbage(usize, char),
}

/// How a request is answered. DNS has failures of its own for them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    Denied,
    Failed,
    /// It is done, but the reply gets lost.
    LostReply,
    /// It is done, and no reply ever comes.
    Never,
    None,
    /// So many targets are changed, then a call fails.
    Partial(u8),
    Throttled,
    TimedOut,
    Unavailable,
}

/// What a history is about.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub kind: Kind,
    /// Whether a second name is bound to the group, on a port of its own.
    pub has_two_names: bool,
    pub ownership: Ownership,
    pub grace: Option<u32>,
    pub lookups: Option<u32>,
    /// How many caches stand in front of each name, and how long they keep an answer, in seconds.
    pub caches: usize,
    pub ttl: u64,
    pub seed: u64,
}

/// What the first name is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A name of one's own that leads to a reader endpoint.
    Chained,
    Instance,
    Plain,
    Reader,
}

/// What an answer of a name is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Answering {
    InFull,
    Sample,
    /// It may be taken for a sample by what it answered.
    Unknown,
}

type Running<'w> = Pin<Box<dyn Future<Output = Environment> + 'w>>;

/// An execution environment, and the run that it is in.
enum Actor<'w> {
    Idle(Box<Environment>),
    Running(Running<'w>),
}

/// The time, a target group, DNS, and somebody who watches what becomes of the targets.
pub struct Universe {
    start: Instant,
    now: Instant,
    /// By how many milliseconds the clock was set back.
    behind: u64,
    rng: Rng,
    setting: Setting,
    pub group: TargetGroup,
    names: [Name; 3],
    told: [Option<BTreeSet<u8>>; 3],
    is_unavailable: bool,
    lag: Duration,
    acting: usize,
    fault: Fault,
    requests: usize,
    order: usize,
    /// Whether time passes when the acting one waits.
    is_alone: bool,
    wakes: [Instant; 3],
    nonce: u32,
    actors: [Notes; 3],
    /// What all runs of a function saw that were active at once, since the last time that none was.
    seen_by_all: [Option<BTreeSet<Target>>; 2],
    /// When a target was registered last that no more is.
    left_at: BTreeMap<Target, Instant>,
    /// When others than this actor changed targets last.
    changed_at: [Option<Instant>; 4],
    /// Addresses that DNS ever gave to a function, and targets that it registered, or noted as missing in an exclusive
    /// group.
    claims: [Claims; 2],
    /// Since when a target is missing from all answers to a function's runs that came to their end.
    missing_since: [BTreeMap<Target, Instant>; 2],
    first_listed: BTreeMap<Target, Instant>,
    /// Since when, by the clock, a target is known to be missing.
    noted: BTreeMap<Target, Timestamp>,
    /// Whether state may have got lost.
    is_tampered: bool,
}

#[derive(Debug)]
struct Name {
    hostname: Hostname,
    /// The name, and those on its CNAME chain.
    chain: Vec<String>,
    gives: BTreeSet<u8>,
    gives_one: bool,
    caches: Caches,
}

#[derive(Default)]
struct Claims {
    given: BTreeSet<IpAddr>,
    targets: BTreeSet<Target>,
    /// Those that it registered while the group was a shared one.
    owned: BTreeSet<Target>,
}

/// What is known of an actor.
struct Notes {
    // Of its environment.
    /// Since when looks of all names have lacked a target in a row.
    lacked_since: BTreeMap<Target, Instant>,
    /// Since when calm runs have known that.
    known_since: BTreeMap<Target, Instant>,
    last_seen: BTreeMap<Target, Instant>,
    largest: BTreeMap<Hostname, usize>,
    returns: BTreeMap<Hostname, usize>,
    last_answer: BTreeMap<Hostname, BTreeSet<IpAddr>>,
    /// What the newest list showed of the time.
    seen_at: Instant,

    // Of its invocation.
    /// What AWS accepted, as far as no list has shown it since.
    writes: BTreeMap<Target, Written>,

    // Of its run, or the last one that it was in.
    is_active: bool,
    group: Rc<Group>,
    mode: Mode,
    began: Timestamp,
    newest: BTreeMap<Hostname, Option<Answer>>,
    newest_good: BTreeMap<Hostname, Answer>,
    saw: BTreeMap<Hostname, BTreeSet<IpAddr>>,
    list: Option<Vec<RegisteredTarget>>,
    listed_at: Instant,
    is_unavailable: bool,
    tags: Option<Tags>,
    /// How often DNS, and the targets, were asked for again since the last change.
    looks: u32,
    lists: u32,
    writes_of_run: usize,
    /// Whether tags were the last that it wrote.
    has_added_tags: bool,
    has_reached_quota: bool,
    has_failed: bool,
    not_registrable: BTreeSet<Target>,
    registered: BTreeSet<Target>,
    deregistered: BTreeSet<Target>,
}

#[derive(Clone, Copy)]
struct Written {
    at: Instant,
    change: Change,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Change {
    /// Of a target in this state.
    Deregistration(TargetState),
    Registration {
        was_draining: bool,
    },
}

impl Notes {
    fn new(now: Instant, group: Rc<Group>) -> Self {
        Self {
            lacked_since: BTreeMap::new(),
            known_since: BTreeMap::new(),
            last_seen: BTreeMap::new(),
            largest: BTreeMap::new(),
            returns: BTreeMap::new(),
            last_answer: BTreeMap::new(),
            seen_at: now,
            writes: BTreeMap::new(),
            is_active: false,
            group,
            mode: Mode::Full,
            began: Timestamp(0),
            newest: BTreeMap::new(),
            newest_good: BTreeMap::new(),
            saw: BTreeMap::new(),
            list: None,
            listed_at: now,
            is_unavailable: false,
            tags: None,
            looks: 0,
            lists: 0,
            writes_of_run: 0,
            has_added_tags: false,
            has_reached_quota: false,
            has_failed: false,
            not_registrable: BTreeSet::new(),
            registered: BTreeSet::new(),
            deregistered: BTreeSet::new(),
        }
    }

    /// A run begins: what was known of the one before is gone.
    fn begin(&mut self, order: &Order<'_>, now: Now) {
        let old = mem::replace(self, Self::new(self.seen_at, Rc::new(order.group.clone())));
        *self = Self {
            lacked_since: old.lacked_since,
            known_since: old.known_since,
            last_seen: old.last_seen,
            largest: old.largest,
            returns: old.returns,
            last_answer: old.last_answer,
            writes: old.writes,
            is_active: true,
            mode: order.mode,
            began: now.time,
            ..Self::new(old.seen_at, Rc::clone(&self.group))
        };
    }

    /// What a target is, as far as the run knows.
    fn state_of(&self, target: &Target) -> Option<TargetState> {
        match self.writes.get(target).map(|write| write.change) {
            Some(Change::Registration { .. }) => Some(TargetState::Initial),
            Some(Change::Deregistration(_)) => Some(TargetState::Draining),
            None => self.list.iter().flatten().find(|shown| shown.target == *target).map(|shown| shown.state),
        }
    }

    fn is_shared(&self) -> bool {
        self.group.ownership == Ownership::Shared
    }

    fn answering(&self, hostname: &Hostname) -> Answering {
        let group = &self.group;
        let stated = group.lookups.get(hostname).copied();
        if group.deregister_after_seconds == Some(0) || stated == Some(1) {
            return Answering::InFull;
        }
        let names = self.newest_good.get(hostname).map_or(&[][..], |answer| &answer.names);
        let is_of = |part: &str| hostname.canonical().contains(part) || names.iter().any(|name| name.contains(part));
        if is_of(".cluster-ro-") {
            return Answering::Sample;
        }
        if is_of(".rds.amazonaws.com") {
            return Answering::InFull;
        }
        let is_large = self.largest.get(hostname).is_some_and(|largest| *largest >= 8);
        let rotates = self.returns.get(hostname).is_some_and(|returns| *returns >= 5);
        if stated.is_some() || is_large || rotates { Answering::Unknown } else { Answering::InFull }
    }

    fn answer_in_full(&self) -> bool {
        self.group.hostnames().into_iter().all(|hostname| self.answering(hostname) == Answering::InFull)
    }

    /// Seconds that a target must be missing.
    fn grace(&self) -> Duration {
        let by_name = |hostname: &Hostname| {
            let names = self.newest_good.get(hostname).map_or(&[][..], |answer| &answer.names);
            let is_reader = |name: &str| name.contains(".cluster-ro-");
            let is_reader = is_reader(hostname.canonical()) || names.iter().any(|name| is_reader(name));
            if is_reader { 300 } else { 0 }
        };
        let by_kind = || self.group.hostnames().into_iter().map(by_name).max().unwrap_or_default();
        Duration::from_secs(self.group.deregister_after_seconds.unwrap_or_else(by_kind).into())
    }

    /// What DNS gives, as far as this run knows; the addresses that may be no targets; and whether each name gives
    /// something.
    fn desired(&self) -> (BTreeSet<Target>, BTreeSet<IpAddr>, bool) {
        let mut targets = BTreeSet::new();
        let mut refused = BTreeSet::new();
        let mut is_complete = true;
        for (hostname, port) in &self.group.members {
            let addresses = match self.answering(hostname) {
                Answering::InFull => self.newest.get(hostname).cloned().flatten().map(|answer| answer.addresses),
                _ => self.saw.get(hostname).cloned(),
            };
            let addresses = addresses.unwrap_or_default();
            refused.extend(addresses.iter().filter(|address| is_public(**address)));
            let usable: Vec<_> = addresses.into_iter().filter(|address| !is_public(*address)).collect();
            is_complete &= !usable.is_empty();
            targets.extend(usable.into_iter().map(|address| Target { address, port: port.unwrap_or(PORTS[0]) }));
        }
        (targets, refused, is_complete)
    }
}

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
        Some(Ok(Answer { addresses, names: name.chain.clone(), ttl, at }))
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
                notes.list = Some(listed.clone());
                notes.listed_at = asked_at;
                self.note_absence();
            }
            Event::Listed(Err(error), _) => notes.is_unavailable |= error.kind == ElbErrorKind::Unavailable,
            Event::TagsRead(tags) => notes.tags = tags.as_ref().ok().cloned().or_else(|| notes.tags.take()),
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

impl Written {
    fn is_registration(self) -> bool {
        matches!(self.change, Change::Registration { .. })
    }

    /// Whether a list shows this, or what somebody did later.
    fn is_seen(self, shown: Option<TargetState>, asked_at: Instant) -> bool {
        let is_later = asked_at >= self.at;
        match (self.change, shown) {
            (_, None) => false,
            (Change::Registration { was_draining }, Some(TargetState::Draining)) => is_later && !was_draining,
            (Change::Registration { .. }, Some(_)) | (Change::Deregistration(_), Some(TargetState::Draining)) => true,
            (Change::Deregistration(before), Some(TargetState::Initial)) => is_later && before != TargetState::Initial,
            (Change::Deregistration(_), Some(_)) => false,
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

    fn error(&self, operation: &'static str) -> Option<ElbError> {
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

    fn read<T>(&mut self, operation: &'static str, read: impl FnOnce(&Self) -> T) -> Option<Result<T, ElbError>> {
        self.requests += 1;
        match self.error(operation) {
            Some(error) => Some(Err(error)),
            None if self.fault == Fault::Never => None,
            None => Some(Ok(read(self))),
        }
    }

    fn write(
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

    fn change_targets(
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
    fn change<T>(&mut self, who: usize, change: impl FnOnce(&mut TargetGroup, Instant) -> T) -> T {
        let before = self.group.registered();
        let result = change(&mut self.group, self.now);
        let after = self.group.registered();
        for target in before.difference(&after) {
            self.left_at.insert(*target, self.now);
            self.noted.remove(target);
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

    fn was_registered_since(&self, target: &Target, since: Instant) -> bool {
        self.group.registered().contains(target) || self.left_at.get(target).is_some_and(|left| *left >= since)
    }

    fn answered(&mut self, answers: &Answers) {
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
            let returned =
                addresses.iter().filter(|address| last.as_ref().is_some_and(|last| !last.contains(*address)));
            *notes.returns.entry(hostname.clone()).or_default() += returned.count();
            for (_, port) in notes.group.members.iter().filter(|(bound, _)| bound == hostname) {
                let port = port.unwrap_or(PORTS[0]);
                notes.last_seen.extend(addresses.iter().map(|address| (Target { address: *address, port }, answer.at)));
            }
            self.claims[function_of(me)].given.extend(addresses);
        }
        self.note_absence();
    }

    /// Takes in what the acting one knows to be missing.
    fn note_absence(&mut self) {
        let notes = &mut self.actors[self.acting];
        let (desired, _, is_complete) = notes.desired();
        notes.lacked_since.retain(|target, _| !desired.contains(target));
        notes.known_since.retain(|target, _| !desired.contains(target));
        self.noted.retain(|target, _| !desired.contains(target));
        if is_complete {
            for target in self.first_listed.keys().filter(|target| !desired.contains(target)) {
                notes.lacked_since.entry(*target).or_insert(self.now);
                self.missing_since[function_of(self.acting)].entry(*target).or_insert(self.now);
            }
        }
    }

    /// What must hold of a step.
    fn decided(&mut self, step: &Step) {
        let me = self.acting;
        if step.is_write() {
            assert!(self.actors[me].mode != Mode::DryRun, "a dry run writes: {step:?}");
            // What is to be removed after others were added, was decided with these.
            let is_decided = matches!(step, Step::RemoveTags(_)) && self.actors[me].has_added_tags;
            if !is_decided {
                self.check_freshness(step);
            }
            self.actors[me].has_added_tags = matches!(step, Step::AddTags(_));
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
            Step::Done | Step::Pause(_) | Step::Read { .. } | Step::ReadTags { .. } => {}
        }
        if step.is_write() {
            let notes = &mut self.actors[me];
            notes.looks = 0;
            notes.lists = 0;
            notes.writes_of_run += 1;
        }
    }

    /// What a change is based on is new, or was asked for again in vain.
    fn check_freshness(&self, step: &Step) {
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

    fn check_registration(&self, targets: &BTreeSet<Target>) {
        let me = self.acting;
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
                let owned = owned(self.group.tags(self.now, Duration::ZERO), me);
                assert!(owned.contains(target), "rule 8: registers {target}, which no tag says to be its own");
            }
        }
    }

    fn check_deregistration(&self, shown: &BTreeSet<RegisteredTarget>) {
        let me = self.acting;
        let notes = &self.actors[me];
        let (desired, refused, is_complete) = notes.desired();
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

    fn check_grace(&self, target: &Target) {
        let notes = &self.actors[self.acting];
        let grace = notes.grace();
        if !notes.answer_in_full() {
            let last_seen = notes.last_seen.get(target).map(|at| self.now - *at);
            let is_early = last_seen.is_some_and(|ago| ago < grace);
            assert!(!is_early, "rule 15: deregisters {target} {last_seen:?} after it was seen");
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
    fn check_owned(&self) {
        let tags = self.group.tags(self.now, Duration::ZERO);
        for (function, actor) in [0, 2].into_iter().enumerate() {
            let owned = owned(tags, actor);
            let orphans: Vec<_> = self.claims[function].owned.difference(&owned).collect();
            assert!(self.is_tampered || orphans.is_empty(), "rule 8: no tag says whose {orphans:?} are: {tags:?}");
        }
    }

    /// No run empties a group by itself.
    fn check_not_empty(&self, before: &BTreeSet<Target>) {
        let notes = &self.actors[self.acting];
        let others = self.changed_at.iter().enumerate().filter(|(who, _)| *who != self.acting);
        let is_alone = others.filter_map(|(_, at)| *at).all(|at| at < notes.seen_at);
        let may_empty = notes.has_reached_quota && before.len() == 1;
        let is_emptied = !before.is_empty() && self.group.registered().is_empty();
        assert!(!is_emptied || may_empty || !is_alone, "the run empties the group");
    }

    /// A run came to its end.
    fn ended(&mut self, report: &GroupReport) {
        let notes = &mut self.actors[self.acting];
        notes.is_active = false;
        if notes.mode != Mode::DryRun {
            assert_eq!(report.registered, notes.registered, "the report tells what was registered");
            assert_eq!(report.deregistered, notes.deregistered, "the report tells what was deregistered");
        }
        let is_done = report.failures.is_empty() && notes.mode != Mode::DryRun;
        self.left(is_done);
    }

    /// A run came to its end, or was killed.
    fn left(&mut self, is_done: bool) {
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

    fn own_tags(&self) -> Tags {
        let tags = self.group.tags(self.now, Duration::ZERO);
        let own = tags.iter().filter(|(key, _)| (0..3).any(|actor| is_own(key, actor)));
        own.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    fn set_tags(&mut self, change: impl FnOnce(&mut Tags)) {
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

    /// Earlier runs wrote these tags.
    pub fn write_tags(&mut self, tags: &Tags) {
        self.set_tags(|present| present.extend(tags.clone()));
        for actor in [0, 2] {
            self.claims[function_of(actor)].targets.extend(owned(tags, actor));
        }
    }

    /// Takes the tags as they are for spoilt from now on.
    fn tamper(&mut self) {
        self.is_tampered = true;
        self.noted.clear();
    }

    fn room(&self) -> usize {
        let tags = self.group.tags(self.now, Duration::ZERO);
        MOST_TAGS - (tags.len() - self.own_tags().len())
    }

    fn apply(&mut self, event: &Happening) {
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

    /// What must hold after a run that nothing disturbed.
    fn check_calm(&mut self, report: &GroupReport) {
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
        if !is_well {
            self.noted.clear();
            return;
        }
        let notes = &mut self.actors[me];
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
        let is_nothing_to_remember = !notes.is_shared() && (grace.is_zero() || noted.is_empty());
        let mut left = self.own_tags();
        left.retain(|key, _| is_own(key, me));
        assert!(!is_nothing_to_remember || left.is_empty(), "rule 8: a tag is left: {left:?}\n{}", context());
        self.noted = noted;
    }
}

impl Damage {
    fn apply(self, value: &mut String) {
        match self {
            Self::Cut(at) if !value.is_empty() => value.truncate(at % value.len()),
            Self::Garbage(at, garbage) => value.insert(at % (value.len() + 1), garbage),
            Self::Cut(_) | Self::Emptied => value.clear(),
        }
    }
}

/// Lets a history happen, and then some calm.
pub fn happen(setting: Setting, History(events): &History) {
    let universe = RefCell::new(Universe::new(setting));
    let mut theatre = Theatre::new(&universe);
    for event in events {
        theatre.play(event);
    }
    theatre.calm_down();
}

/// Plays the runs of a history.
pub struct Theatre<'w> {
    universe: &'w RefCell<Universe>,
    actors: [Option<Actor<'w>>; 3],
}

impl<'w> Theatre<'w> {
    pub fn new(universe: &'w RefCell<Universe>) -> Self {
        let actors =
            [0, 1, 2].map(|actor| Some(Actor::Idle(Box::new(Environment::new(FUNCTIONS[function_of(actor)])))));
        Self { universe, actors }
    }

    pub fn play(&mut self, event: &Happening) {
        match event {
            Happening::Begin(actor, how, order) => self.begin(actor % 3, *how, *order),
            Happening::CalmRun => {
                if !self.actors.iter().flatten().any(Actor::is_running) {
                    self.calm_run();
                }
            }
            Happening::Go(actor, steps) => (0..*steps).for_each(|_| self.go(actor % 3)),
            Happening::Kill(actor) => self.kill(actor % 3),
            Happening::Settings(..) => {
                // Another deployment. Runs of the one before that go on beside it may leave anything.
                self.finish();
                (0..3).for_each(|actor| self.kill(actor));
                self.universe.borrow_mut().apply(event);
            }
            Happening::Step(actor, fault) => self.step(actor % 3, *fault),
            event => self.universe.borrow_mut().apply(event),
        }
    }

    /// Only one function can have a group to itself.
    fn is_on_stage(&self, actor: usize) -> bool {
        actor < 2 || self.universe.borrow().setting.ownership == Ownership::Shared
    }

    fn begin(&mut self, actor: usize, how: How, order: usize) {
        if !self.is_on_stage(actor) {
            return;
        }
        match self.actors[actor].take() {
            Some(Actor::Idle(environment)) => {
                self.universe.borrow_mut().order = order;
                self.actors[actor] = Some(Actor::Running(invocation(self.universe, actor, *environment, how)));
            }
            running => self.actors[actor] = running,
        }
    }

    fn step(&mut self, actor: usize, fault: Fault) {
        self.begin(actor, How::Full, 0);
        let before = self.universe.borrow().requests;
        for _ in 0..4 {
            self.universe.borrow_mut().fault = fault;
            self.go(actor);
            if self.universe.borrow().requests > before {
                break;
            }
        }
        self.universe.borrow_mut().fault = Fault::None;
    }

    /// A run goes on until it lets others act.
    fn go(&mut self, actor: usize) {
        let Some(Actor::Running(mut running)) = self.actors[actor].take_if(|actor| actor.is_running()) else { return };
        let requests = {
            let mut universe = self.universe.borrow_mut();
            universe.acting = actor;
            universe.now = universe.now.max(universe.wakes[actor]);
            universe.requests
        };
        self.actors[actor] = Some(match running.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(environment) => Actor::Idle(Box::new(environment)),
            Poll::Pending => Actor::Running(running),
        });
        if self.universe.borrow().requests > requests {
            self.universe.borrow().check_owned();
        }
    }

    /// A run goes on to the next request of its and has the reply, or it comes to its end.
    pub fn request(&mut self, actor: usize) {
        let before = self.universe.borrow().requests;
        while self.is_running(actor) && self.universe.borrow().requests == before {
            self.go(actor);
        }
        self.go(actor);
    }

    pub fn is_running(&self, actor: usize) -> bool {
        self.actors[actor].as_ref().is_some_and(Actor::is_running)
    }

    fn kill(&mut self, actor: usize) {
        let mut universe = self.universe.borrow_mut();
        universe.acting = actor;
        if universe.actors[actor].is_active {
            universe.left(false);
        }
        let (seen_at, group) = (universe.actors[actor].seen_at, Rc::clone(&universe.actors[actor].group));
        universe.actors[actor] = Notes::new(seen_at, group);
        self.actors[actor] = Some(Actor::Idle(Box::new(Environment::new(FUNCTIONS[function_of(actor)]))));
    }

    /// All runs come to their end.
    fn finish(&mut self) {
        for actor in 0..3 {
            while self.is_running(actor) {
                self.go(actor);
            }
        }
    }

    /// All faults are over, and what has to go gets the time that it takes.
    pub fn calm_down(&mut self) {
        self.finish();
        {
            let mut universe = self.universe.borrow_mut();
            universe.set_tags(|tags| tags.retain(|key, _| !is_of_others(key)));
            universe.is_unavailable = false;
            universe.told = [None, None, None];
            universe.lag = Duration::ZERO;
            let ttl = Duration::from_secs(universe.setting.ttl);
            universe.names.iter_mut().for_each(|name| name.caches = Caches::new(ttl, 0));
            universe.group.quota = 1000;
            universe.group.not_registrable.clear();
            universe.group.not_deregistrable.clear();
        }
        self.calm_run();
        let grace = self.universe.borrow().actors[0].grace();
        self.universe.borrow_mut().now += grace.max(FLAPPING) + Duration::from_secs(1);
        self.calm_run();
        // What the other function has let go by now.
        self.calm_run();
        self.check_settled();
    }

    fn check_settled(&mut self) {
        let universe = self.universe.borrow();
        let notes = &universe.actors[0];
        let (desired, refused, is_complete) = notes.desired();
        if !is_complete || !notes.answer_in_full() {
            return;
        }
        let registered = universe.group.registered();
        let theirs = match universe.setting.ownership {
            Ownership::Exclusive => BTreeSet::new(),
            Ownership::Shared => universe.actors[2].desired().0,
        };
        let tags = universe.group.tags(universe.now, Duration::ZERO);
        let is_foreign =
            |target: &Target| notes.is_shared() && (universe.is_tampered || !universe.claims[0].owned.contains(target));
        let stale = registered.difference(&desired).filter(|target| {
            !theirs.contains(target)
                && !refused.contains(&target.address)
                && !is_foreign(target)
                && !owned_elsewhere(tags, 0).contains(target)
        });
        let stale: Vec<_> = stale.collect();
        assert!(stale.is_empty(), "nobody's any more: {stale:?}, tags {tags:?}");
        drop(universe);
        // A run that finds all as it should be changes nothing.
        let before = self.universe.borrow().group.tags(self.universe.borrow().now, Duration::ZERO).clone();
        self.calm_run();
        let universe = self.universe.borrow();
        assert_eq!(universe.actors[0].writes_of_run, 0, "rule 8: a run writes that changes nothing: {before:?}");
    }

    fn calm_run(&mut self) {
        for actor in [0, 2] {
            if self.is_on_stage(actor) {
                self.calm_run_of(actor);
            }
        }
    }

    fn calm_run_of(&mut self, actor: usize) {
        let Some(Actor::Idle(mut environment)) = self.actors[actor].take() else { unreachable!("all are idle") };
        let (lag, cutoff, nonce, group) = {
            let mut universe = self.universe.borrow_mut();
            universe.acting = actor;
            universe.is_alone = true;
            universe.order = 0;
            universe.nonce += 1000;
            let lag = mem::take(&mut universe.lag);
            let group = group(&universe.names, universe.setting, function_of(actor));
            (lag, universe.now + TIME_OUT, universe.nonce, group)
        };
        let allowed = AllowedNetworks::default();
        let order = Order { group: &group, allowed: &allowed, mode: Mode::Full, may_tidy: true, nonce, cutoff };
        environment.memory.begin_invocation();
        self.universe.borrow_mut().actors[actor].writes.clear();
        let report = alone(environment.reconcile(self.universe, order, None));
        let mut universe = self.universe.borrow_mut();
        universe.is_alone = false;
        universe.lag = lag;
        universe.check_calm(&report);
        drop(universe);
        self.actors[actor] = Some(Actor::Idle(environment));
    }
}

impl Actor<'_> {
    fn is_running(&self) -> bool {
        matches!(self, Self::Running(_))
    }
}

/// An invocation of a function, in this environment.
fn invocation<'w>(
    universe: &'w RefCell<Universe>,
    actor: usize,
    mut environment: Environment,
    how: How,
) -> Running<'w> {
    Box::pin(async move {
        let (group, nonce, began) = {
            let mut universe = universe.borrow_mut();
            universe.nonce += 1000;
            universe.actors[actor].writes.clear();
            (group(&universe.names, universe.setting, function_of(actor)), universe.nonce, universe.now)
        };
        let allowed = AllowedNetworks::default();
        let mode = if how == How::DryRun { Mode::DryRun } else { Mode::Full };
        let time_out = match how {
            How::Watch(seconds) => Duration::from_secs(seconds.into()) + RESERVE,
            _ => TIME_OUT,
        };
        let cutoff = began + time_out;
        let order = Order { group: &group, allowed: &allowed, mode, may_tidy: true, nonce, cutoff };
        environment.memory.begin_invocation();
        let report = environment.reconcile(universe, order, None).await;
        if let How::Watch(_) = how {
            let until = cutoff - RESERVE;
            let interval = Duration::from_secs(1);
            let pace = Pace { interval, heeds_ttl: false, ends_when_stable: false, until };
            environment.watch(universe, order, pace, report).await;
        }
        environment
    })
}

fn group(names: &[Name; 3], setting: Setting, function: usize) -> Group {
    let arn = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/db/0123456789abcdef";
    let bound: Vec<_> = match function {
        0 if setting.has_two_names => vec![(&names[0], None), (&names[1], Some(PORTS[1]))],
        0 => vec![(&names[0], None)],
        _ => vec![(&names[2], None)],
    };
    let members: BTreeSet<_> = bound.iter().map(|(name, port)| (name.hostname.clone(), *port)).collect();
    let lookups =
        setting.lookups.into_iter().flat_map(|lookups| members.iter().map(move |(name, _)| (name.clone(), lookups)));
    Group {
        arn: arn.parse().unwrap(),
        ownership: setting.ownership,
        deregister_after_seconds: setting.grace,
        lookups: lookups.collect(),
        members,
    }
}

/// What a tag of ours says of a target.
struct Entry {
    target: Target,
    is_released: bool,
}

/// The entries of a tag, as docs/removal.md describes them.
fn entries(key: &str, value: &str) -> Vec<Entry> {
    if !key.starts_with(MISSING) && !key.starts_with(OWNED) {
        return Vec::new();
    }
    let read = |entry: &str| {
        let (entry, is_released) = entry.strip_suffix("/released").map_or((entry, false), |entry| (entry, true));
        let (address, port) = entry.split('@').next()?.split_once('_')?;
        Some(Entry { target: Target { address: address.parse().ok()?, port: port.parse().ok()? }, is_released })
    };
    value.split_whitespace().filter_map(read).collect()
}

/// What the tags say to be this actor's function's.
fn owned(tags: &Tags, actor: usize) -> BTreeSet<Target> {
    let own = tags.iter().filter(|(key, _)| is_own(key, actor));
    own.flat_map(|(key, value)| entries(key, value)).map(|entry| entry.target).collect()
}

/// What another function owns, and has not let go.
fn owned_elsewhere(tags: &Tags, actor: usize) -> BTreeSet<Target> {
    let theirs = tags.iter().filter(|(key, _)| !is_own(key, actor));
    let theirs = theirs.flat_map(|(key, value)| entries(key, value));
    theirs.filter(|entry| !entry.is_released).map(|entry| entry.target).collect()
}

/// Whether the function of this actor writes such tags.
fn is_own(key: &str, actor: usize) -> bool {
    let function = key.strip_prefix(OWNED).and_then(|rest| rest.split_once('/')).map(|(_, function)| function);
    let is_named = function.is_none_or(|function| function == FUNCTIONS[function_of(actor)]);
    is_named && !is_of_others(key) && (key.starts_with(MISSING) || key.starts_with(OWNED))
}

fn is_of_others(key: &str) -> bool {
    FOREIGN.contains(&key) || key.starts_with("team:")
}

fn function_of(actor: usize) -> usize {
    usize::from(actor == 2)
}

/// Some hosts have a public address, which may be no target.
fn address(host: u8) -> IpAddr {
    if PUBLIC.contains(&host) { Ipv4Addr::new(54, 0, 0, host).into() } else { Ipv4Addr::new(10, 0, 0, host).into() }
}

fn is_public(address: IpAddr) -> bool {
    PUBLIC.iter().any(|host| address == Ipv4Addr::new(54, 0, 0, *host))
}

fn target(host: u8, port: usize) -> Target {
    Target { address: address(host), port: PORTS[port % PORTS.len()] }
}

/// The group's own, that of the second name, and one that nobody asks for.
const PORTS: [NonZeroU16; 3] =
    [NonZeroU16::new(5432).unwrap(), NonZeroU16::new(6543).unwrap(), NonZeroU16::new(7654).unwrap()];

const FUNCTIONS: [&str; 2] = ["one", "two"];

const READER: &str = "orders.cluster-ro-c9akciq32abc.eu-west-1.rds.amazonaws.com";

const INSTANCE: &str = "orders.c9akciq32abc.eu-west-1.rds.amazonaws.com";

const MISSING: &str = "nlb-hostname-targets:missing-";

const OWNED: &str = "nlb-hostname-targets:owned-";

/// Tags that are none of the state.
const FOREIGN: [&str; 3] =
    ["nlb-hostname-targets:hostname", "nlb-hostname-targets:mising-1", "nlb-hostname-targets:owned-one"];

const PUBLIC: [u8; 2] = [8, 9];

/// Somebody who is none of the actors.
const NOBODY: usize = 3;

/// How long a target that is `initial` must have been missing.
const FLAPPING: Duration = Duration::from_secs(30);

/// How long a list may lack a change.
const LONGEST_LAG: Duration = Duration::from_secs(60);

/// Of an invocation, without what is kept for its end.
const TIME_OUT: Duration = Duration::from_secs(58);

/// What a watch keeps for its end.
const RESERVE: Duration = Duration::from_secs(2);

/// Noon of a day in 2025, in milliseconds since the epoch.
const EPOCH: u64 = 1_763_802_000_250;

/// Tags that suffice for the state of all targets that these histories register.
const ROOM_FOR_ALL: usize = 20;
