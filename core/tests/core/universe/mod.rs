//! A model of all that a run meets: the time, DNS with its caches, a target group with its tags, people and other tools,
//! and processes that die. The runs are the product's own; what is checked of them is the contract, by what really was.

mod dns;
mod elb;
mod happening;
mod notes;
mod rules;
mod scene;
mod stage;
pub mod strategies;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, mem,
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU16,
    rc::Rc,
    time::{Duration, Instant},
};

use fastrand::Rng;
use nlb_hostname_targets_core::{
    answer::{Answer, Answers},
    binding::{Group, Ownership},
    clock::{Now, Timestamp},
    failure::{DnsFailure, ElbError, ElbErrorKind, Failure, ResolveError},
    hostname::Hostname,
    kind::HostnameKind,
    memory::Memory,
    network::AllowedNetworks,
    report::GroupReport,
    run::{Known, Mode, Task, dns_cutoff},
    tags::{MOST_TAGS, State, TagChanges, Tags},
    target::{Facts, IpFamily, RegisteredTarget, Target, TargetState},
    watch::{Course, Watch},
    world::{Changed, World},
};

use self::{
    elb::TargetGroup,
    notes::{Desired, Notes, RunNotes},
};
pub use dns::Name;
pub use happening::*;
pub use scene::{OWN, WRITER, held, hosts};
pub use stage::{Stage, happen};

pub struct Universe {
    start: Instant,
    pub now: Instant,
    /// By how many milliseconds the clock was set back.
    behind: u64,
    rng: Rng,
    setting: Setting,
    /// The groups as the two functions are bound to them.
    bound: [Rc<Group>; 2],
    pub group: TargetGroup,
    names: Vec<Name>,
    told: [Option<BTreeSet<u8>>; 3],
    is_unavailable: bool,
    lag: Duration,
    /// How the next request is answered and how those of an action are, as long as nobody says otherwise.
    fault: Fault,
    pub faults: BTreeMap<&'static str, Fault>,
    /// Whether there is no time for a name that does not resolve.
    pub is_out_of_time: bool,
    /// How many requests there were, and which.
    requests: usize,
    calls: Vec<String>,
    /// How long lists take.
    slow: Duration,
    /// What comes to pass at these times.
    later: Vec<(Instant, Later)>,
    /// Whether time passes when an actor waits.
    is_alone: bool,
    notes: [Notes; 3],
    claims: [Claims; 2],
    first_listed: BTreeMap<Target, Instant>,
    left_at: BTreeMap<Target, Instant>,
    /// When each actor, and others, changed targets last.
    changed_at: [Option<Instant>; 4],
    /// Whether state may have got lost.
    is_tampered: bool,
}

type Later = Box<dyn FnOnce(&mut Universe)>;

/// What is a function's own.
#[derive(Default)]
struct Claims {
    /// Addresses that DNS gave to it, or that a tag called its own.
    given: BTreeSet<IpAddr>,
    /// Targets that it registered as its own in a shared group, as long as they stay.
    owned: BTreeSet<Target>,
    /// Those of which one run forgot whose they are while another one was under way.
    forgotten: BTreeSet<Target>,
    /// Since when its names lack a target, as far as no run of its that was done saw it since.
    missing_since: BTreeMap<Target, Instant>,
}

impl Universe {
    #[allow(clippy::disallowed_methods, reason = "an instant has to come from somewhere; the model counts on from it")]
    pub fn new(setting: Setting) -> Self {
        let start = Instant::now() + Duration::from_secs(7200);
        let name = |chain: &[&str], most| Name::new(chain, most, &setting);
        let first = match setting.kind {
            Kind::Balancer => name(&[BALANCER], 3),
            Kind::Chained => name(&["db.test", READER], 1),
            Kind::Instance => name(&[INSTANCE], usize::MAX),
            Kind::Plain => name(&["db.test"], usize::MAX),
            Kind::Reader => name(&[READER], 1),
            Kind::Rotating => name(&["db.test"], 1),
        };
        let names = vec![first, name(&["other.test"], usize::MAX), name(&["theirs.test"], usize::MAX)];
        Self {
            start,
            now: start,
            behind: 0,
            rng: Rng::with_seed(setting.seed),
            bound: [0, 1].map(|function| Rc::new(bind(&names, &setting, function))),
            setting,
            group: TargetGroup::new(),
            names,
            told: [None, None, None],
            is_unavailable: false,
            lag: Duration::ZERO,
            fault: Fault::None,
            faults: BTreeMap::new(),
            is_out_of_time: false,
            requests: 0,
            calls: Vec::new(),
            slow: Duration::ZERO,
            later: Vec::new(),
            is_alone: false,
            notes: Default::default(),
            claims: Default::default(),
            first_listed: BTreeMap::new(),
            left_at: BTreeMap::new(),
            changed_at: [None; 4],
            is_tampered: false,
        }
    }

    /// Earlier runs wrote these tags.
    pub fn write_tags(&mut self, tags: &Tags) {
        self.group.change_tags(self.now, |present| present.extend(tags.clone()));
        let now = self.clock();
        for (claims, function) in self.claims.iter_mut().zip(FUNCTIONS) {
            let (state, _) = State::read(tags, function);
            claims.given.extend(state.owned.iter().chain(state.missing.keys()).map(|target| target.address));
            let missing = state.missing.into_iter();
            claims.missing_since.extend(missing.map(|(target, since)| (target, now.at - now.time.since(since))));
        }
    }

    /// Whether a tag says that the first name rotates.
    pub fn is_rotating(&self) -> bool {
        self.group.tags().keys().any(|key| key.contains("rotates"))
    }

    fn clock(&self) -> Now {
        let passed = u64::try_from((self.now - self.start).as_millis()).unwrap();
        Now { at: self.now, time: Timestamp(EPOCH + passed - self.behind) }
    }

    fn is_shared(&self) -> bool {
        self.setting.ownership == Ownership::Shared
    }

    fn bound_to(&self, actor: usize) -> &Group {
        &self.bound[function_of(actor)]
    }

    /// What the tags say to the function of an actor now.
    fn state(&self, actor: usize) -> State {
        State::read(self.group.tags(), FUNCTIONS[function_of(actor)]).0
    }

    /// Time passes, and what comes to pass in it.
    fn pass(&mut self, until: Instant) {
        while let Some(next) = self.later.iter().position(|(at, _)| *at <= until) {
            let (at, change) = self.later.remove(next);
            self.now = self.now.max(at);
            change(self);
        }
        self.now = self.now.max(until);
    }

    /// Lets one of the actors, or somebody else, change targets.
    fn change<T>(&mut self, who: usize, change: impl FnOnce(&mut TargetGroup, Instant) -> T) -> T {
        let before = self.group.registered();
        let result = change(&mut self.group, self.now);
        let after = self.group.registered();
        for target in before.difference(&after) {
            self.left_at.insert(*target, self.now);
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
}

fn bind(names: &[Name], setting: &Setting, function: usize) -> Group {
    let arn = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/db/0123456789abcdef";
    let mut group = Group::without_members(arn.parse().unwrap());
    (group.ownership, group.deregister_after_seconds) = (setting.ownership, setting.grace);
    let mut bind = |name: &Name, port| {
        group.members.insert((name.hostname.clone(), port));
        group.lookups.extend(setting.lookups.map(|lookups| (name.hostname.clone(), lookups)));
    };
    if function == 1 {
        bind(&names[2], None);
    } else {
        bind(&names[0], None);
        setting.second.into_iter().for_each(|port| bind(&names[1], Some(PORTS[port])));
    }
    group
}

fn is_of_others(key: &str) -> bool {
    FOREIGN.contains(&key) || key.starts_with("team:")
}

fn function_of(actor: usize) -> usize {
    usize::from(actor == 2)
}

/// Some hosts have a public address, which may be no target.
pub fn address(host: u8) -> IpAddr {
    if PUBLIC.contains(&host) { Ipv4Addr::new(54, 0, 0, host).into() } else { Ipv4Addr::new(10, 0, 0, host).into() }
}

pub fn target(host: u8, port: usize) -> Target {
    Target { address: address(host), port: PORTS[port % PORTS.len()] }
}

fn is_public(address: IpAddr) -> bool {
    PUBLIC.iter().any(|host| address == Ipv4Addr::new(54, 0, 0, *host))
}

fn elb_error(operation: &'static str, kind: ElbErrorKind, problem: &str) -> ElbError {
    ElbError { operation, kind, problem: problem.to_owned() }
}

/// The group's own, that of the second name, and one that nobody asks for.
pub const PORTS: [NonZeroU16; 3] =
    [NonZeroU16::new(5432).unwrap(), NonZeroU16::new(6543).unwrap(), NonZeroU16::new(7654).unwrap()];

const FUNCTIONS: [&str; 2] = ["one", "two"];

pub const READER: &str = "orders.cluster-ro-c9akciq32abc.eu-west-1.rds.amazonaws.com";
pub const INSTANCE: &str = "orders.c9akciq32abc.eu-west-1.rds.amazonaws.com";
const BALANCER: &str = "front-0123456789abcdef.elb.eu-west-1.amazonaws.com";

/// Tags that are none of the state.
const FOREIGN: [&str; 3] =
    ["nlb-hostname-targets:hostname", "nlb-hostname-targets:mising-1", "nlb-hostname-targets:owned-one"];

pub const PUBLIC: [u8; 2] = [200, 201];

/// Somebody who is none of the actors.
const NOBODY: usize = 3;

/// How long a target that is `initial` must have been missing.
const FLAPPING: Duration = Duration::from_secs(30);

/// How long a list may lack a change.
const LONGEST_LAG: Duration = Duration::from_secs(60);

/// After how long a list is believed that does not show a change of one's own.
const BELIEVED: Duration = Duration::from_secs(6);

/// Of an invocation, without what is kept for its end; and what a watch keeps.
const TIME_OUT: Duration = Duration::from_secs(58);
const RESERVE: Duration = Duration::from_secs(2);

/// Noon of a day in 2025, in milliseconds since the epoch.
const EPOCH: u64 = 1_763_802_000_250;

/// Tags that suffice for the state of all targets that these histories register but by dozens.
const ROOM_FOR_ALL: usize = 40;
