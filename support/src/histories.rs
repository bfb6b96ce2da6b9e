//! Histories of one target group: what DNS, AWS, people and killed processes do while runs of one or two functions follow
//! the names, step by step. The runs are the product's; what is checked of them is the contract, by what really was.

mod rules;
pub mod strategies;
mod theatre;
mod universe;

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
    failure::{DnsFailure, ElbError, ElbErrorKind, Failure, ResolveError},
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

pub use theatre::Theatre;

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
    known: BTreeMap<Hostname, BTreeSet<IpAddr>>,
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
    /// Whether it was not allowed to read them. Who needs them not need not try again.
    is_barred: bool,
    /// Whether the run before was done while nothing else happened. One that fails reads tags in vain, and the next one
    /// that is done does not read them either.
    was_well: bool,
    /// How often DNS, and the targets, were asked for again since the last change.
    looks: u32,
    lists: u32,
    writes_of_run: usize,
    /// The last step, where that wrote tags.
    last_tag_step: Option<Step>,
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
            known: BTreeMap::new(),
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
            is_barred: false,
            was_well: false,
            looks: 0,
            lists: 0,
            writes_of_run: 0,
            last_tag_step: None,
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
            is_barred: old.is_barred,
            was_well: old.was_well,
            lacked_since: old.lacked_since,
            known_since: old.known_since,
            last_seen: old.last_seen,
            largest: old.largest,
            returns: old.returns,
            last_answer: old.last_answer,
            known: old.known,
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
        let rotates = self.returns.get(hostname).is_some_and(|returns| *returns >= 4);
        match stated {
            Some(_) => Answering::Sample,
            None if is_large || rotates => Answering::Unknown,
            None => Answering::InFull,
        }
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
    /// something. Of a name that may give samples, all that it gave to this run.
    fn desired(&self) -> (BTreeSet<Target>, BTreeSet<IpAddr>, bool) {
        self.desired_where(|hostname| self.saw.get(hostname).cloned())
    }

    /// The same, but of a name that may give samples or not, no more than its newest answer.
    fn surely_desired(&self) -> (BTreeSet<Target>, BTreeSet<IpAddr>, bool) {
        self.desired_where(|hostname| {
            let is_unsure = self.answering(hostname) == Answering::Unknown;
            let newest = self.newest_of(hostname).filter(|_| is_unsure);
            newest.or_else(|| self.saw.get(hostname).cloned())
        })
    }

    fn newest_of(&self, hostname: &Hostname) -> Option<BTreeSet<IpAddr>> {
        self.newest.get(hostname).cloned().flatten().map(|answer| answer.addresses)
    }

    fn desired_where(
        &self,
        sample: impl Fn(&Hostname) -> Option<BTreeSet<IpAddr>>,
    ) -> (BTreeSet<Target>, BTreeSet<IpAddr>, bool) {
        let mut targets = BTreeSet::new();
        let mut refused = BTreeSet::new();
        let mut is_complete = true;
        for (hostname, port) in &self.group.members {
            let in_full = self.answering(hostname) == Answering::InFull;
            let addresses = if in_full { self.newest_of(hostname) } else { sample(hostname) };
            let addresses = addresses.unwrap_or_default();
            refused.extend(addresses.iter().filter(|address| is_public(**address)));
            let usable: Vec<_> = addresses.into_iter().filter(|address| !is_public(*address)).collect();
            is_complete &= !usable.is_empty();
            targets.extend(usable.into_iter().map(|address| Target { address, port: port.unwrap_or(PORTS[0]) }));
        }
        (targets, refused, is_complete)
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
            (Change::Registration { was_draining }, Some(TargetState::Draining)) => {
                is_later && (!was_draining || asked_at - self.at > USUAL_LAG)
            }
            (Change::Registration { .. }, Some(_)) | (Change::Deregistration(_), Some(TargetState::Draining)) => true,
            (Change::Deregistration(before), Some(TargetState::Initial)) => is_later && before != TargetState::Initial,
            (Change::Deregistration(_), Some(_)) => false,
        }
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
    missing_since: Option<Timestamp>,
    is_released: bool,
}

/// The entries of a tag, as docs/removal.md describes them.
fn entries(key: &str, value: &str) -> Vec<Entry> {
    if !key.starts_with(MISSING) && !key.starts_with(OWNED) {
        return Vec::new();
    }
    let read = |entry: &str| {
        let (entry, is_released) = entry.strip_suffix("/released").map_or((entry, false), |entry| (entry, true));
        let mut rest = entry.split('@');
        let (address, port) = rest.next()?.split_once('_')?;
        let target = Target { address: address.parse().ok()?, port: port.parse().ok()? };
        Some(Entry { target, missing_since: rest.next().map(str::parse).transpose().ok()?, is_released })
    };
    value.split_whitespace().filter_map(read).collect()
}

/// What the tags say to be this actor's function's.
fn owned(tags: &Tags, actor: usize) -> BTreeSet<Target> {
    let own = tags.iter().filter(|(key, _)| is_own(key, actor));
    own.flat_map(|(key, value)| entries(key, value)).map(|entry| entry.target).collect()
}

/// Since when they say the target to be missing.
fn missing_since(tags: &Tags, actor: usize, target: &Target) -> Option<Timestamp> {
    let own = tags.iter().filter(|(key, _)| is_own(key, actor));
    let mut entries = own.flat_map(|(key, value)| entries(key, value));
    entries.find(|entry| entry.target == *target)?.missing_since
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

/// How long it may show a target as draining that was so before it was registered.
const USUAL_LAG: Duration = Duration::from_secs(10);

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
