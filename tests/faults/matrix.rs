//! The fault matrix: what DNS, ELBv2, CloudWatch and GetResources do wrong, alone and in pairs, a run that is killed at each of its
//! steps, and what production is like besides: reads that lag, targets that are new, a freeze, a run beside. After each
//! the contract's rules hold, and once the fault is gone one run converges.
//!
//! In the tables that are printed, "done" is a case in which the target group was in step all the same, "told" one in
//! which the failure was in the error message.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    env,
    net::SocketAddr,
    thread,
    time::{Duration, Instant, UNIX_EPOCH},
};

use futures_util::{StreamExt, future::join, stream};
use hickory_proto::rr::RecordType;
use nlb_hostname_targets::function::{Function, RunError};
use serde_json::{Value, json};
use support::{
    Log, OWN_CLOCK, World, advance,
    aws::{Call, Fault, FaultKind, Metric, SentTarget, TWICE, TargetGroup},
    binding,
    dns::{FakeDns, Reply, hostile},
    front::{Death, Front},
    invoke, invoke_within, now, targets,
};
use tokio::{
    net::UdpSocket,
    select,
    time::{sleep, timeout},
};
use tracing::instrument::WithSubscriber;

use crate::{block_on, threads};

/// Collects what is not as it should be.
macro_rules! check {
    ($problems:ident, $condition:expr, $($message:tt)+) => {
        if !$condition {
            $problems.push(format!($($message)+));
        }
    };
}

/// What the name that is struck does.
struct DnsFault {
    name: &'static str,
    reply: fn() -> Reply,
    /// What the error message has to hold; `None` where the name resolves all the same.
    says: Option<&'static str>,
    waits: bool,
}

const RESOLVES: fn() -> Reply = || Reply::addresses(&["10.0.1.10", "10.0.1.11"]);
const FIRST_SERVER_DEAD: &str = "first server dead";
const FIRST_SERVER_CLOSED: &str = "first server closed";
const THOUSAND: &str = "1,000 addresses";

const DNS: [DnsFault; 16] = {
    const fn fault(name: &'static str, says: &'static str, reply: fn() -> Reply) -> DnsFault {
        DnsFault { name, reply, says: Some(says), waits: false }
    }
    const fn waits(name: &'static str, says: Option<&'static str>, reply: fn() -> Reply) -> DnsFault {
        DnsFault { name, reply, says, waits: true }
    }
    [
        DnsFault { name: "fine", reply: RESOLVES, says: None, waits: false },
        fault("NXDOMAIN", "NXDOMAIN", || Reply::NxDomain { negative_ttl: Some(1) }),
        fault("no data", "no data", || Reply::NoData { negative_ttl: Some(1) }),
        fault("SERVFAIL", "SERVFAIL", || Reply::ServFail),
        fault("REFUSED", "REFUSED", || Reply::Refused),
        fault("not implemented", "response code", || Reply::Raw(hostile::not_implemented)),
        waits("time-out", Some("time-out"), || Reply::Silent),
        fault("malformed", "malformed", || Reply::Raw(hostile::garbage_with_id)),
        fault("cut short", "malformed", || Reply::Raw(hostile::cut_short)),
        fault("compression loop", "malformed", || Reply::Raw(hostile::pointer_loop)),
        waits("wrong id", Some("time-out"), || Reply::Raw(hostile::wrong_id)),
        waits(FIRST_SERVER_DEAD, None, RESOLVES),
        DnsFault { name: FIRST_SERVER_CLOSED, reply: RESOLVES, says: None, waits: false },
        waits("slow", None, || RESOLVES().delayed(Duration::from_millis(1200))),
        DnsFault { name: "only over TCP", reply: || RESOLVES().truncated(), says: None, waits: false },
        // The target group takes 1,000 targets, and it has others to hold, too.
        waits(THOUSAND, Some("TooManyTargets"), || {
            let addresses = (0..1000).map(|number| format!("10.0.{}.{}", 64 + number / 250, 1 + number % 250));
            Reply::Addresses(addresses.map(|address| address.parse().unwrap()).collect()).truncated()
        }),
    ]
};

/// What ELBv2 does to a call on the target group that is struck.
struct ElbFault {
    name: &'static str,
    kind: fn() -> FaultKind,
    actions: &'static [&'static str],
    /// What the error message has to hold beside the action.
    says: &'static str,
    /// Whether a run gets over it where it strikes once.
    passes: bool,
    waits: bool,
}

pub(crate) const ACTIONS: [&str; 7] = [
    "DescribeTargetGroups",
    "DescribeTargetHealth",
    "RegisterTargets",
    "DeregisterTargets",
    "DescribeTags",
    "AddTags",
    "RemoveTags",
];
const DELETED: &str = "deleted in between";
const REFUSED: &str = "a target refused";

/// What AWS says where it can't tell the targets.
const CANNOT_TELL: [&str; 3] = ["500", "503", "HealthUnavailable"];
/// What it does where the role may not ask, or the call hangs.
const MAY_NOT_ASK: [&str; 3] = ["AccessDenied", "hanging", "lost reply"];

const ELB: [ElbFault; 19] = {
    const fn passes(name: &'static str, says: &'static str, kind: fn() -> FaultKind) -> ElbFault {
        ElbFault { name, kind, actions: &ACTIONS, says, passes: true, waits: false }
    }
    const fn stays(name: &'static str, says: &'static str, kind: fn() -> FaultKind) -> ElbFault {
        ElbFault { passes: false, ..passes(name, says, kind) }
    }
    const fn of(actions: &'static [&'static str], code: &'static str, kind: fn() -> FaultKind) -> ElbFault {
        ElbFault { actions, ..stays(code, code, kind) }
    }
    [
        passes("Throttling", "Throttling: Rate exceeded", FaultKind::throttling),
        passes("ThrottlingException", "ThrottlingException", || {
            FaultKind::error(400, "ThrottlingException", "Rate exceeded")
        }),
        passes("500", "InternalFailure", || FaultKind::error(500, "InternalFailure", "not now")),
        passes("503", "HTTP status 503", || FaultKind::body(503, "<html>Service Unavailable</html>")),
        passes("reset before", "", || FaultKind::ResetBefore),
        passes("reset after", "", || FaultKind::ResetAfter),
        ElbFault { waits: true, ..passes("lost reply", "no reply in time", || FaultKind::LoseReply) },
        ElbFault { waits: true, ..passes("hanging", "still waiting for", || FaultKind::Hang) },
        stays("not XML", "can't be read", || FaultKind::body(200, "<!doctype html><p>Sign in to go on")),
        stays("AccessDenied", "AccessDenied", || FaultKind::error(403, "AccessDenied", "not authorized")),
        stays(DELETED, "TargetGroupNotFound", || FaultKind::DeleteGroup),
        stays("TargetGroupNotFound", "TargetGroupNotFound", || not("TargetGroupNotFound")),
        of(&["DescribeTargetHealth", "RegisterTargets", "DeregisterTargets"], "InvalidTarget", || not("InvalidTarget")),
        ElbFault { passes: true, ..of(&["DescribeTargetHealth"], "HealthUnavailable", FaultKind::health_unavailable) },
        ElbFault {
            name: REFUSED,
            ..of(&["DeregisterTargets"], "10.0.1.9", || FaultKind::RefuseTarget("10.0.1.9".to_owned()))
        },
        of(&["RegisterTargets"], "TooManyTargets", || not("TooManyTargets")),
        of(&["RegisterTargets"], "TooManyRegistrationsForTargetId", || not("TooManyRegistrationsForTargetId")),
        of(&["AddTags"], "TooManyTags", || not("TooManyTags")),
        of(&["AddTags"], "DuplicateTagKeys", || not("DuplicateTagKeys")),
    ]
};

fn not(code: &str) -> FaultKind {
    FaultKind::error(400, code, "so it is")
}

/// What becomes of PutMetricData.
struct CloudWatchFault {
    name: &'static str,
    kind: Option<fn() -> FaultKind>,
    /// Whether no metrics arrive.
    loses: bool,
}

const CLOUDWATCH: [CloudWatchFault; 4] = [
    CloudWatchFault { name: "fine", kind: None, loses: false },
    CloudWatchFault { name: "refused", kind: Some(|| FaultKind::error(403, "AccessDenied", "no")), loses: true },
    CloudWatchFault { name: "hanging", kind: Some(|| FaultKind::Hang), loses: true },
    CloudWatchFault { name: "slow", kind: Some(|| FaultKind::SlowReply(Duration::from_secs(1))), loses: false },
];

/// What becomes of GetResources, where target groups are bound by their tags.
struct ListingFault {
    name: &'static str,
    kind: Option<fn() -> FaultKind>,
    /// What the error message has to hold beside the action.
    says: &'static str,
    /// Whether a run gets over it where it strikes once.
    passes: bool,
    waits: bool,
}

const LISTING: [ListingFault; 11] = {
    const fn passes(name: &'static str, says: &'static str, kind: fn() -> FaultKind) -> ListingFault {
        ListingFault { name, kind: Some(kind), says, passes: true, waits: false }
    }
    const fn stays(name: &'static str, says: &'static str, kind: fn() -> FaultKind) -> ListingFault {
        ListingFault { passes: false, ..passes(name, says, kind) }
    }
    [
        ListingFault { name: "fine", kind: None, says: "", passes: true, waits: false },
        passes("Throttled", "ThrottledException: Rate exceeded", || {
            FaultKind::error(400, "ThrottledException", "Rate exceeded")
        }),
        passes("500", "InternalServiceException", || FaultKind::error(500, "InternalServiceException", "not now")),
        passes("503", "HTTP status 503", || FaultKind::body(503, "<html>Service Unavailable</html>")),
        passes("reset before", "", || FaultKind::ResetBefore),
        passes("reset after", "", || FaultKind::ResetAfter),
        ListingFault { waits: true, ..passes("lost reply", "", || FaultKind::LoseReply) },
        ListingFault { waits: true, ..passes("hanging", "", || FaultKind::Hang) },
        stays("AccessDenied", "tag:GetResources", || FaultKind::error(400, "AccessDeniedException", "not authorized")),
        stays("not JSON", "", || FaultKind::body(200, "<!doctype html><p>Sign in to go on")),
        stays("cut short", "", || FaultKind::body(200, "{\"ResourceTagMappingList\":[{\"ResourceARN\":\"arn:aws:elas")),
    ]
};

/// The settings of the target group that is struck.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Settings {
    /// `exclusive`, and what is missing goes at once.
    Plain,
    /// `exclusive`, and what is missing goes after [`GRACE`].
    Grace,
    /// `shared`, and what is missing goes at once.
    Shared,
}

impl Settings {
    const ALL: [Self; 3] = [Self::Plain, Self::Grace, Self::Shared];

    /// The actions that a run calls.
    fn actions(self) -> &'static [&'static str] {
        if self == Self::Plain { &ACTIONS[..4] } else { &ACTIONS }
    }

    /// Whether new targets do not have to wait for what is struck so.
    fn registers_without(self, fault: &ElbFault, action: &str) -> bool {
        if action == "DescribeTargetHealth" {
            return CANNOT_TELL.contains(&fault.name);
        }
        match self {
            Self::Plain => action == "DeregisterTargets",
            Self::Grace => ["DeregisterTargets", "DescribeTags", "AddTags", "RemoveTags"].contains(&action),
            Self::Shared => ["DeregisterTargets", "RemoveTags"].contains(&action),
        }
    }
}

const GRACE: i64 = 60;

/// What production is like, beside what goes wrong.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Circumstance {
    /// As kind as an emulation is.
    Kind,
    /// Reads of targets and tags show what was so many milliseconds ago.
    Lag(u64),
    /// The stale targets were registered moments ago.
    Initial,
    /// The execution environment was frozen since its last run, and its connections have died so.
    Frozen(Death),
    /// Another run at the same time sees an older answer: .9 and .10.
    Beside,
}

impl Circumstance {
    const ALL: [Self; 8] = [
        Self::Kind,
        Self::Lag(500),
        Self::Lag(5000),
        Self::Initial,
        Self::Frozen(Death::Fin),
        Self::Frozen(Death::Rst),
        Self::Frozen(Death::Silent),
        Self::Beside,
    ];

    fn lag(self) -> Duration {
        match self {
            Self::Lag(milliseconds) => Duration::from_millis(milliseconds),
            _ => Duration::ZERO,
        }
    }

    fn name(self) -> String {
        match self {
            Self::Kind => "none".to_owned(),
            Self::Lag(milliseconds) => format!("reads lag by {milliseconds} ms"),
            Self::Initial => "stale targets are initial".to_owned(),
            Self::Frozen(death) => format!("frozen, connections die by {death:?}"),
            Self::Beside => "a run beside sees an older answer".to_owned(),
        }
    }
}

/// One cell of the matrix.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
struct Case {
    settings: Settings,
    /// Of [`DNS`].
    dns: usize,
    /// Of [`ELB`], and the action that it strikes.
    elb: Option<(usize, &'static str)>,
    once: bool,
    /// Of [`CLOUDWATCH`].
    cloudwatch: usize,
    /// Of [`LISTING`], where the target groups are bound by their tags; and whether the execution environment has found
    /// them before.
    listing: Option<(usize, bool)>,
    /// After how many calls, and whether the next one is still carried out.
    kill: Option<(u32, bool)>,
    circumstance: Circumstance,
}

/// What a run made of a fault.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Outcome {
    /// The target group is in step all the same.
    Done,
    /// The failure is in the error message.
    Told,
    Killed,
}

impl Case {
    fn new(settings: Settings) -> Self {
        let circumstance = Circumstance::Kind;
        Self { settings, dns: 0, elb: None, once: false, cloudwatch: 0, listing: None, kill: None, circumstance }
    }

    fn dns(&self) -> &'static DnsFault {
        &DNS[self.dns]
    }

    fn elb(&self) -> Option<(&'static ElbFault, &'static str)> {
        self.elb.map(|(number, action)| (&ELB[number], action))
    }

    /// What keeps the run from finding target groups by their tags.
    fn listing(&self) -> Option<&'static ListingFault> {
        let fault = &LISTING[self.listing?.0];
        (fault.kind.is_some() && !(self.once && fault.passes)).then_some(fault)
    }

    /// Whether the run knows no target group.
    fn is_blind(&self) -> bool {
        self.listing().is_some() && self.listing.is_some_and(|(_, is_known)| !is_known)
    }

    /// Whether it spends its time waiting rather than computing.
    fn waits(&self) -> bool {
        let cloudwatch = CLOUDWATCH[self.cloudwatch].kind.is_some();
        let circumstance = self.circumstance != Circumstance::Kind;
        let listing = self.listing.is_some_and(|(number, _)| LISTING[number].waits);
        self.dns().waits || self.elb().is_some_and(|(fault, _)| fault.waits) || cloudwatch || listing || circumstance
    }

    /// What ELBv2 does to this action all the time.
    fn throughout(&self, action: &str) -> Option<&'static str> {
        let (fault, struck) = self.elb().filter(|_| !self.once)?;
        (struck == action).then_some(fault.name)
    }

    fn is_deleted(&self) -> bool {
        self.elb().is_some_and(|(fault, _)| fault.name == DELETED)
    }

    fn label(&self) -> String {
        let elb = self.elb().map(|(fault, action)| format!("{} on {action}, once: {}", fault.name, self.once));
        format!(
            "{:?}, {}, DNS {}, ELBv2 {}, CloudWatch {}, {}, killed {:?}",
            self.settings,
            self.circumstance.name(),
            self.dns().name,
            elb.unwrap_or_else(|| "fine".to_owned()),
            CLOUDWATCH[self.cloudwatch].name,
            match self.listing {
                Some((number, is_known)) => format!("GetResources {}, known: {is_known}", LISTING[number].name),
                None => "bound by BINDINGS".to_owned(),
            },
            self.kill
        )
    }
}

/// Two target groups: `db`, which is struck, and `other`.
///
/// `db` is bound to `db.test`, which gives .10 and .11, and to `also.test`, which gives .20 and an address that may not
/// be registered. It holds .8 and .9, which DNS does not give.
struct Scene {
    world: World,
    settings: Settings,
    circumstance: Circumstance,
    db: String,
    other: String,
    /// What the run beside this one asks, where there is one.
    beside: Option<Beside>,
    /// Between the function and AWS, where connections die.
    front: Option<Front>,
    _dead: UdpSocket,
}

/// Another function, and the name server that it sees.
struct Beside {
    function: Function,
    _dns: FakeDns,
}

impl Scene {
    async fn new(case: Case) -> Self {
        let world = World::new().await;
        let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let first = match case.dns().name {
            FIRST_SERVER_DEAD => Some(dead.local_addr().unwrap()),
            // Where nobody listens, so that the transport fails at once.
            FIRST_SERVER_CLOSED => Some(SocketAddr::from(([127, 0, 0, 1], 1))),
            _ => None,
        };
        let servers: Vec<_> = first.into_iter().chain([world.dns.address()]).collect();
        world.dns.set_reply("db.test", RecordType::A, RESOLVES());
        world.dns.set_a("also.test", &["10.0.1.20", "54.1.2.3"]);
        world.dns.set_a("other.test", &["10.0.2.10"]);
        world.dns.set_ttl(1);
        let db = world.aws.create_target_group(TargetGroup::new("db"));
        let other = world.aws.create_target_group(TargetGroup::new("other"));
        let stale = if case.circumstance == Circumstance::Initial { "initial" } else { "healthy" };
        world.aws.add_target(&db, "10.0.1.8", stale);
        world.aws.add_target(&db, "10.0.1.9", stale);
        world.aws.add_target(&db, "10.0.1.7", "draining");
        world.aws.add_target(&other, "10.0.2.9", "healthy");
        world.aws.set_tag(&db, "team", "data");
        let (of_db, tags) = match case.settings {
            Settings::Plain => (json!({}), [None, None]),
            // The grace of .9 is over, .8 is not known to be missing yet, and .11 is back.
            Settings::Grace => {
                world.aws.add_target(&db, "10.0.1.11", "healthy");
                let long_ago = now().duration_since(UNIX_EPOCH).unwrap().as_secs() - 1000;
                let missing = |address: &str| Some(format!("{address}_5432@{long_ago}.000"));
                (json!({"deregister_after_seconds": GRACE}), [missing("10.0.1.9"), missing("10.0.1.11")])
            }
            // .99 is somebody else's, and what the second tag tells of is gone.
            Settings::Shared => {
                world.aws.add_target(&db, "10.0.1.99", "healthy");
                let owned = "10.0.1.7_5432 10.0.1.8_5432 10.0.1.9_5432".to_owned();
                (json!({"ownership": "shared"}), [Some(owned), Some("10.0.1.6_5432".to_owned())])
            }
        };
        let family = if case.settings == Settings::Shared { "owned" } else { "missing" };
        for (number, value) in (1..).zip(tags) {
            if let Some(value) = value {
                world.aws.set_tag(&db, &format!("nlb-hostname-targets:{family}-{number}"), &value);
            }
        }
        let world = if case.listing.is_some() {
            let of_tags = of_db.as_object().unwrap().iter();
            let of_tags = of_tags.map(|(field, value)| (field.replace('_', "-"), value.to_string().replace('"', "")));
            for (name, value) in of_tags.chain([("hostname".to_owned(), "db.test also.test".to_owned())]) {
                world.aws.set_tag(&db, &format!("nlb-hostname-targets:{name}"), &value);
            }
            world.aws.set_tag(&other, HOSTNAME_TAG, "other.test");
            world.set("DISCOVERY", "tags")
        } else {
            world
        };
        let with = |mut binding: Value| {
            binding.as_object_mut().unwrap().extend(of_db.as_object().unwrap().clone());
            binding
        };
        let bindings =
            json!([with(binding("db.test", &db)), with(binding("also.test", &db)), binding("other.test", &other)]);
        let mut world = if case.listing.is_some() { world } else { world.set("BINDINGS", bindings) };
        let mut beside = None;
        if case.circumstance == Circumstance::Beside {
            let dns = FakeDns::start().await;
            dns.set_ttl(1);
            dns.set_a("db.test", &["10.0.1.9", "10.0.1.10"]);
            dns.set_a("also.test", &["10.0.1.20"]);
            dns.set_a("other.test", &["10.0.2.10"]);
            world = world.dns_servers(&[dns.address()]);
            beside = Some(Beside { function: world.function().await, _dns: dns });
            world.aws.tolerate(TWICE);
        }
        let mut front = None;
        if let Circumstance::Frozen(_) = case.circumstance {
            let relay = Front::new(world.aws.address()).await;
            world = world.set("AWS_ENDPOINT_URL", format!("http://{}", relay.address()));
            front = Some(relay);
        }
        let lag = case.circumstance.lag();
        world.aws.reconfigure(&db, |group| group.target_lag(lag).tag_lag(lag));
        let world = world.dns_servers(&servers);
        let (settings, circumstance) = (case.settings, case.circumstance);
        Self { world, settings, circumstance, db, other, beside, front, _dead: dead }
    }

    /// What is registered once all is well; .8 goes when its grace is over. What is `initial` stays for a while.
    fn goal(&self) -> BTreeSet<String> {
        let mut goal = targets(&match self.settings {
            Settings::Plain => vec![10, 11, 20],
            Settings::Grace => vec![8, 10, 11, 20],
            Settings::Shared => vec![10, 11, 20, 99],
        });
        let health = self.world.aws.targets(&self.db);
        goal.extend(targets(&[8, 9]).into_iter().filter(|target| health.get(target).is_some_and(|it| it == "initial")));
        goal
    }

    /// A run that opens connections, and a freeze in which they die.
    async fn freeze(&self, function: &Function, missed: &mut Vec<String>) {
        let (Circumstance::Frozen(death), Some(front)) = (self.circumstance, &self.front) else { return };
        let result = invoke(function, json!({"dry_run": true})).await;
        check!(missed, result.is_ok(), "before the freeze: {result:?}");
        let died = front.kill(death).await;
        check!(missed, died > 0, "no connection was open");
        sleep(IDLE).await;
        self.world.aws.clear_calls();
    }

    /// A run that finds target groups by their tags, so long ago that they are looked for again.
    async fn discover(&self, case: Case, function: &Function, missed: &mut Vec<String>) {
        if let Some((_, true)) = case.listing {
            let result = invoke(function, json!({"dry_run": true})).await;
            check!(missed, result.is_ok(), "before the fault: {result:?}");
            self.world.aws.clear_calls();
            advance(61);
        }
    }

    /// Until reads show what was written.
    async fn caught_up(&self) {
        sleep(self.circumstance.lag()).await;
    }

    fn others_goal() -> BTreeSet<String> {
        BTreeSet::from(["10.0.2.10:5432".to_owned()])
    }
}

/// What is known of a target group for as long as a run takes, to judge the run's calls by.
pub(crate) struct Truth<'a> {
    pub(crate) arn: &'a str,
    /// What DNS gives all the time and may be registered.
    pub(crate) given: BTreeSet<String>,
    /// What it gives at any time and may be registered.
    pub(crate) acceptable: BTreeSet<String>,
    /// Targets that must not go, whatever DNS says.
    pub(crate) untouchable: BTreeSet<String>,
    /// Whether one of the hostnames resolves at no time.
    pub(crate) unresolved: bool,
    pub(crate) shared: bool,
    /// Whether a quota may refuse a registration, so that stale targets may go first.
    pub(crate) full: bool,
}

impl Truth<'_> {
    /// Which rules of the contract these calls break.
    pub(crate) fn broken_by(&self, calls: &[Call]) -> Vec<String> {
        let mut broken = Vec::new();
        for call in calls.iter().filter(|call| call.arn.as_deref() == Some(self.arn)) {
            // What was sent to a group that is gone did no harm.
            let Some(found) = &call.found else { continue };
            let sent: BTreeSet<_> = call.targets.iter().map(text).collect();
            let mut rule = |number: u8, what: &str, which: Vec<&String>| {
                if !which.is_empty() {
                    broken.push(format!("rule {number}: {} {what}: {which:?}", call.action));
                }
            };
            if call.action == "DeregisterTargets" {
                rule(2, "of a target that DNS gives", sent.intersection(&self.given).collect());
                rule(8, "of a target that must not go", sent.intersection(&self.untouchable).collect());
                if self.unresolved {
                    rule(2, "although a hostname does not resolve", sent.iter().collect());
                }
                if !self.full {
                    rule(1, "before registering", self.given.difference(&found.registered).collect());
                }
            } else {
                rule(6, "of a target that it must not register", sent.difference(&self.acceptable).collect());
                if self.shared {
                    let owned = found.tags.values().flat_map(|value| value.split(' '));
                    let owned: BTreeSet<_> = owned.map(|entry| entry.split('@').next().unwrap()).collect();
                    let is_owned = |target: &&String| owned.contains(entry(target).as_str());
                    rule(8, "of a target not noted before", sent.iter().filter(|target| !is_owned(target)).collect());
                }
            }
        }
        broken
    }
}

/// A target as a tag lists it.
pub(crate) fn entry(target: &str) -> String {
    let (address, port) = target.rsplit_once(':').unwrap();
    format!("{}_{port}", address.trim_start_matches('[').trim_end_matches(']'))
}

/// What was done twice to a target in a run, for want of being seen done: rule 17. What came in between may have undone
/// it.
pub(crate) fn repeated(arn: &str, calls: &[Call]) -> Vec<String> {
    let mut last: BTreeMap<String, &str> = BTreeMap::new();
    let mut repeated = Vec::new();
    let accepted = calls.iter().filter(|call| is_accepted(call)).filter(|call| call.arn.as_deref() == Some(arn));
    for call in accepted.filter(|call| call.action.ends_with("sterTargets")) {
        for target in call.targets.iter().map(text) {
            if last.insert(target.clone(), &call.action) == Some(&call.action) {
                repeated.push(format!("rule 17: {} of {target} again", call.action));
            }
        }
    }
    repeated
}

pub(crate) fn is_accepted(call: &Call) -> bool {
    call.status == 200 && call.error.is_none()
}

pub(crate) fn text(target: &SentTarget) -> String {
    let address = target.id.parse().unwrap();
    SocketAddr::new(address, target.port.unwrap_or_default()).to_string()
}

/// What came of a case.
struct Judged {
    case: Case,
    outcome: Outcome,
    /// Which rules were broken.
    broken: Vec<String>,
    /// What should have come of it, and did not: perhaps for want of time.
    missed: Vec<String>,
}

/// Runs a case up to the run that converges, and returns what came of the first run and what is wrong with it all.
async fn run(case: Case) -> Judged {
    let scene = Scene::new(case).await;
    let Scene { world, db, other, .. } = &scene;
    let mut broken = Vec::new();
    let mut missed = Vec::new();
    let function = world.function().await;
    scene.freeze(&function, &mut missed).await;
    scene.discover(case, &function, &mut missed).await;

    if let Some((calls, carried_out)) = case.kill {
        let kind = if carried_out { FaultKind::LoseReply } else { FaultKind::Hang };
        world.aws.fault(Fault::any(kind).after(calls).times(1));
    }
    if let Some((fault, action)) = case.elb() {
        let strike = Fault::on(action, (fault.kind)()).arn(db);
        world.aws.fault(if case.once || case.is_deleted() { strike.times(1) } else { strike });
    }
    if let Some(kind) = CLOUDWATCH[case.cloudwatch].kind {
        world.aws.fault(Fault::on("PutMetricData", kind()));
    }
    if let Some(kind) = case.listing.and_then(|(number, _)| LISTING[number].kind) {
        let strike = Fault::on("GetResources", kind());
        world.aws.fault(if case.once { strike.times(1) } else { strike });
    }
    world.dns.set_reply("db.test", RecordType::A, (case.dns().reply)());

    let hangs = case.elb().is_some_and(|(fault, _)| fault.name == "hanging") && !case.once;
    let lists_late = case.listing().is_some_and(|fault| fault.waits);
    let deadline = Duration::from_secs(match case.dns().name {
        // A call that hangs is given up by itself after 12 s: here it is the deadline that is near.
        _ if hangs || (lists_late && !case.elb().is_some_and(|(fault, _)| fault.waits)) => 9,
        THOUSAND => 60,
        _ => 30,
    });
    let (log, dispatch) = Log::dispatch();
    let own = invoke_within(&function, json!({}), deadline).with_subscriber(dispatch);
    let running = async {
        match &scene.beside {
            // Nothing is claimed of what it says.
            Some(beside) => join(own, invoke_within(&beside.function, json!({}), deadline)).await.0,
            None => own.await,
        }
    };
    let result = select! {
        result = timeout(deadline, running) => Some(result),
        () = world.aws.left_hanging(), if case.kill.is_some() => None,
    };
    if result.is_none() {
        world.aws.settled().await;
    }
    let calls = world.aws.calls();
    let deleted = !world.aws.has_target_group(db);
    let outcome = match result {
        None => Outcome::Killed,
        Some(Err(_)) => {
            missed.push("rule 10: no reply before the deadline".to_owned());
            Outcome::Killed
        }
        Some(Ok(result)) => {
            let is_warned = log.text().contains("not all metrics were sent");
            let is_lost = CLOUDWATCH[case.cloudwatch].loses;
            check!(missed, is_warned == is_lost, "metrics were lost: {is_lost}, the log says so: {is_warned}");
            judge_reply(case, &scene, &result, &mut broken, &mut missed)
        }
    };

    let is_unresolved = case.dns().says.is_some() && case.dns().name != THOUSAND;
    let mut given = targets(&[20]);
    if let Reply::Addresses(addresses) = whole((case.dns().reply)()) {
        given.extend(addresses.into_iter().map(|address| format!("{address}:5432")));
    }
    let is_beside = case.circumstance == Circumstance::Beside;
    let full = case.dns().name == THOUSAND || case.elb().is_some_and(|(fault, _)| fault.name == "TooManyTargets");
    let mut untouchable = targets(&[7, 99]);
    if case.settings == Settings::Grace {
        untouchable.extend(targets(&[8]));
    }
    if case.circumstance == Circumstance::Initial {
        untouchable.extend(targets(&[8, 9]));
    }
    let mut acceptable = given.clone();
    if is_beside {
        // The one gives .11, and the other .9.
        acceptable.extend(targets(&[9]));
        given.remove("10.0.1.11:5432");
    }
    let mut truth = Truth {
        arn: db,
        acceptable,
        given,
        untouchable,
        unresolved: is_unresolved,
        // So many find no place in the tags, which the error says.
        shared: case.settings == Settings::Shared && case.dns().name != THOUSAND,
        full,
    };
    broken.extend(truth.broken_by(&calls));
    if !is_beside {
        broken.extend(repeated(db, &calls));
    }
    let sent = |action: &str| calls.iter().any(|call| call.action == action && call.arn.as_ref() == Some(db));
    if let Some(fault) = case.throughout("DescribeTargetHealth") {
        check!(broken, !sent("DeregisterTargets"), "rule 18: it deregisters, and knows no targets");
        let may_register = !MAY_NOT_ASK.contains(&fault);
        check!(broken, may_register || !sent("RegisterTargets"), "rule 18: it registers, and may not ask");
    }
    if let Some(front) = &scene.front {
        check!(broken, front.lost() == 0, "rule 14: {} requests went into dead connections", front.lost());
    }
    if !deleted {
        let after = world.aws.registered(db);
        // It held two targets or more, the last of which stays also where room is made.
        check!(broken, !after.is_empty(), "the target group was emptied");
        check!(broken, full || after != targets(&[99]), "what is ours was taken away");
        // What hangs until the end leaves no time for what comes after it.
        let registers_without =
            |(fault, action): (&ElbFault, &str)| !hangs && case.settings.registers_without(fault, action);
        let can_register = outcome != Outcome::Killed && !case.is_blind() && case.elb().is_none_or(registers_without);
        check!(missed, !can_register || after.is_superset(&targets(&[20])), "not registered: {after:?}");
        // Of two stale ones, the refused one alone stays.
        let others_go = case.throughout("DeregisterTargets") == Some(REFUSED)
            && (outcome, case.circumstance) == (Outcome::Told, Circumstance::Kind)
            && case.settings != Settings::Grace
            && !is_unresolved;
        check!(
            missed,
            !others_go || after.is_disjoint(&targets(&[8])),
            "rule 18: kept beside a refused one: {after:?}"
        );
        let tags = world.aws.tags(db);
        check!(broken, tags.get("team").is_some_and(|value| value == "data"), "a tag was touched");
        let is_bound = tags.get(HOSTNAME_TAG).is_some_and(|value| value == "db.test also.test");
        check!(broken, is_bound == case.listing.is_some(), "a tag of the binding was touched: {tags:?}");
    }
    if outcome != Outcome::Killed && !case.is_blind() {
        let registered = world.aws.registered(other);
        check!(missed, registered == Scene::others_goal(), "rule 10: the other group was not done: {registered:?}");
    }

    // The fault is gone. Who was killed comes back as a new execution environment, others go on.
    world.aws.clear_faults();
    world.dns.set_reply("db.test", RecordType::A, RESOLVES());
    let function = if outcome == Outcome::Killed { world.function().await } else { function };
    scene.caught_up().await;
    let result = invoke(&function, json!({})).await;
    truth.given = targets(&[10, 11, 20]);
    truth.acceptable.extend(truth.given.clone());
    truth.unresolved = false;
    broken.extend(truth.broken_by(&world.aws.calls()[calls.len()..]));
    if deleted {
        let message = result.map_or_else(|error| error.to_string(), |reply| reply.to_string());
        check!(missed, message.contains("TargetGroupNotFound"), "a deleted group goes unnoticed: {message}");
    } else {
        let registered = world.aws.registered(db);
        let converged = match case.settings {
            // A name that has given 8 addresses or more answers with samples, so that none of the 1,000 goes for lack of
            // evidence, which leaves no room.
            _ if case.dns().name == THOUSAND => true,
            // The other one has seen .9, so that its grace begins anew.
            Settings::Grace if is_beside => registered.iter().all(|it| scene.goal().contains(it) || it.contains(".9:")),
            _ => registered == scene.goal(),
        };
        check!(missed, converged, "it does not converge: {registered:?} after {result:?}");
        if case.dns().name != THOUSAND {
            check!(missed, result.is_ok(), "it does not recover: {result:?}");
        }
    }
    let registered = world.aws.registered(other);
    check!(missed, registered == Scene::others_goal(), "the other group does not converge: {registered:?}");

    if case.circumstance == Circumstance::Initial && !deleted {
        let stale = &targets(&[8, 9]) & &world.aws.registered(db);
        stale.iter().for_each(|target| world.aws.set_state(db, target, "healthy"));
        let result = invoke(&function, json!({})).await;
        let registered = world.aws.registered(db);
        check!(missed, registered == scene.goal(), "initial no more: {registered:?}, {result:?}");
    }

    // What waits goes when its time has come.
    if case.settings == Settings::Grace && !deleted {
        scene.caught_up().await;
        advance(GRACE + 1);
        let result = invoke(&function, json!({})).await;
        let registered = world.aws.registered(db);
        let goal = targets(&[10, 11, 20]);
        let is_over = registered == goal || case.dns().name == THOUSAND;
        check!(missed, is_over, "the grace is over: {registered:?}, {result:?}");
    }
    // To repeat a request of which no reply came is not to deregister a second time.
    let is_repeated = case.elb().is_some_and(|(fault, action)| {
        action == "DeregisterTargets" && ["lost reply", "reset after"].contains(&fault.name)
    });
    let violations = world.aws.take_violations().into_iter();
    broken.extend(violations.filter(|violation| !(is_repeated || is_beside) || !violation.contains(TWICE)));
    Judged { case, outcome, broken, missed }
}

fn whole(reply: Reply) -> Reply {
    match reply {
        Reply::Delayed(_, reply) | Reply::Truncated(reply) => whole(*reply),
        reply => reply,
    }
}

/// What came of a run that was not killed.
fn judge_reply(
    case: Case,
    scene: &Scene,
    result: &Result<Value, RunError>,
    broken: &mut Vec<String>,
    missed: &mut Vec<String>,
) -> Outcome {
    let Scene { world, db, other, .. } = scene;
    let (outcome, message) = match result {
        Ok(_) => (Outcome::Done, String::new()),
        Err(error) => (Outcome::Told, error.to_string()),
    };
    if let Some(fault) = case.listing() {
        let words = ["GetResources", fault.says];
        check!(missed, words.iter().all(|word| message.contains(word)), "{words:?} are not in the message: {message}");
    }
    if case.is_blind() {
        check!(broken, world.writes().is_empty(), "it writes to what it does not know: {:?}", world.writes());
        return outcome;
    }
    // What keeps others from being found, fails none of those that are known.
    let is_failed = matches!(result, Err(RunError::Failed { .. }));
    let mut words = Vec::new();
    let strikes = case.elb().filter(|(fault, _)| !(case.once && fault.passes));
    if let Some((fault, action)) = strikes {
        // That one target was not accepted once, the next call may make up for.
        if !case.once || is_failed {
            words.push(fault.says);
            // What was under way beside it may fail instead where the group is deleted.
            words.extend((fault.name != DELETED).then_some(action));
        }
    }
    // Without knowing the group, nothing is asked about it; and of what was under way nothing is known.
    let is_heard = strikes.is_none_or(|(fault, action)| {
        action != "DescribeTargetGroups" && fault.name != "hanging" && fault.name != DELETED
    });
    words.extend(case.dns().says.filter(|_| is_heard));
    // The run beside may have met the fault, or made good what it prevented.
    let is_alone = scene.beside.is_none();
    // What was registered moments ago is not deregistered yet.
    let is_reached =
        case.circumstance != Circumstance::Initial || strikes.is_none_or(|(_, action)| action != "DeregisterTargets");
    let is_alone = is_alone && is_reached;
    for word in words.iter().filter(|_| is_alone) {
        check!(missed, message.contains(word), "{word} is not in the message: {message}");
    }
    if is_failed {
        check!(missed, !words.is_empty() || !is_alone, "there was no reason to fail: {message}");
        check!(broken, message.contains("db.test") && message.contains(db.as_str()), "no names: {message}");
        check!(missed, !message.contains("other.test") && !message.contains(other.as_str()), "others: {message}");
    } else if world.aws.has_target_group(db) {
        let registered = world.aws.registered(db);
        check!(broken, registered == scene.goal() || !is_alone, "it says it is in step: {registered:?}");
    } else {
        broken.push("a deleted group goes unnoticed".to_owned());
    }
    if case.cloudwatch == 0 && is_alone {
        let failures = |arn: &str| -> Vec<f64> {
            let metrics = world.aws.metrics();
            let failures = metrics.iter().filter(|metric| metric.name == "Failures");
            let of_group = failures.filter(|metric| arn.ends_with(metric.dimensions["TargetGroup"].as_str()));
            of_group.map(|metric| metric.value).collect()
        };
        let failed = if is_failed { 1.0 } else { 0.0 };
        check!(missed, failures(db) == [failed], "Failures is {:?}", failures(db));
        check!(missed, failures(other) == [0.0], "Failures of the other group is {:?}", failures(other));
    }
    outcome
}

/// Each fault of ELBv2 on each action that it can strike, throughout with all settings and once with one of them.
fn of_elb() -> Vec<Case> {
    let mut cases = Vec::new();
    for (number, fault) in ELB.iter().enumerate() {
        for action in fault.actions {
            let settings = Settings::ALL.into_iter().filter(|settings| settings.actions().contains(action));
            let all = settings.map(|settings| Case { elb: Some((number, action)), ..Case::new(settings) });
            let all: Vec<_> = all.collect();
            // A group is deleted once.
            if fault.name == DELETED {
                cases.extend(all.into_iter().map(|case| Case { once: true, ..case }));
            } else {
                cases.push(Case { once: true, ..all[number % all.len()] });
                cases.extend(all);
            }
        }
    }
    cases
}

/// Each fault of DNS alone.
fn of_dns() -> Vec<Case> {
    let of = |dns| Settings::ALL.map(|settings| Case { dns, ..Case::new(settings) });
    (0..DNS.len()).flat_map(of).collect()
}

/// Each fault of DNS with each of ELBv2, and one of CloudWatch at the same time.
fn of_dns_with_elb() -> Vec<Case> {
    // Of a name that does not resolve, nothing is deregistered, so that the other actions are not reached.
    let reached = ["DescribeTargetHealth", "RegisterTargets", "DescribeTargetGroups", "DescribeTags", "AddTags"];
    let pairs = (1..DNS.len()).flat_map(|dns| (0..ELB.len()).map(move |elb| (dns, elb)));
    let is_reached = |elb: usize| ELB[elb].actions.iter().any(|action| reached.contains(action));
    let pairs = pairs.filter(|(dns, elb)| DNS[*dns].name != THOUSAND && is_reached(*elb));
    // What goes with a pair follows from both of it, in steps that have no divisor in common: so each fault of either
    // meets each action, each setting and each fault of CloudWatch.
    let case = |((dns, elb), once): ((usize, usize), bool)| {
        let actions: Vec<_> = reached.into_iter().filter(|action| ELB[elb].actions.contains(action)).collect();
        let action = actions[(dns + elb) % actions.len()];
        let reaches = |settings: &Settings| match action {
            "AddTags" => *settings == Settings::Shared,
            _ => settings.actions().contains(&action),
        };
        let settings: Vec<_> = Settings::ALL.into_iter().filter(reaches).collect();
        let cloudwatch = (dns + elb / 2 + 2 * usize::from(once)) % CLOUDWATCH.len();
        let settings = settings[(dns + elb / 3) % settings.len()];
        Case { dns, elb: Some((elb, action)), once, cloudwatch, ..Case::new(settings) }
    };
    pairs.flat_map(|pair| [(pair, false), (pair, true)]).map(case).collect()
}

/// Each fault of CloudWatch alone, and with one of ELBv2 and one of DNS.
fn of_cloudwatch() -> Vec<Case> {
    let denied = ELB.iter().position(|fault| fault.name == "AccessDenied").unwrap();
    let mut cases = Vec::new();
    for settings in Settings::ALL {
        for cloudwatch in 0..CLOUDWATCH.len() {
            let case = Case { cloudwatch, ..Case::new(settings) };
            cases.extend([case, Case { elb: Some((denied, "RegisterTargets")), ..case }, Case { dns: 1, ..case }]);
        }
    }
    cases
}

/// Each fault of GetResources, before target groups were found and after that, with each setting; and one of them with
/// each of DNS, with each of ELBv2, and where the run is killed.
fn of_listing() -> Vec<Case> {
    let mut cases = Vec::new();
    for (number, is_known) in (0..LISTING.len()).flat_map(|number| [(number, false), (number, true)]) {
        let of = |settings| Case { listing: Some((number, is_known)), ..Case::new(settings) };
        cases.extend(Settings::ALL.map(of));
        cases.push(Case { once: true, ..of(Settings::ALL[number % 3]) });
    }
    let known = |number: usize| Some((number % LISTING.len(), true));
    let dns = (1..DNS.len()).filter(|dns| DNS[*dns].name != THOUSAND);
    cases.extend(dns.map(|dns| Case { dns, listing: known(dns), ..Case::new(Settings::ALL[dns % 3]) }));
    for (elb, fault) in ELB.iter().enumerate() {
        // That the group is gone is no failure of one that was found: an integration test has it.
        let is_gone = ["TargetGroupNotFound", DELETED].contains(&fault.name);
        let actions = fault.actions.iter().filter(|action| ACTIONS[1..4].contains(*action) && !is_gone);
        let action = actions.cycle().nth(elb);
        cases.extend(action.map(|action| Case {
            elb: Some((elb, action)),
            listing: known(elb),
            ..Case::new(Settings::ALL[elb % 3])
        }));
    }
    let kills = (0..8).flat_map(|calls| [(calls, false), (calls, true)]);
    cases.extend(kills.map(|kill| Case {
        listing: Some((0, kill.0 % 2 == 0)),
        kill: Some(kill),
        ..Case::new(Settings::ALL[kill.0 as usize % 3])
    }));
    cases
}

/// Each circumstance alone, with each fault of ELBv2, and with each of DNS.
fn of_circumstances() -> Vec<Case> {
    let mut cases = Vec::new();
    for (number, circumstance) in Circumstance::ALL.into_iter().enumerate().skip(1) {
        let with = |settings| Case { circumstance, ..Case::new(settings) };
        cases.extend(Settings::ALL.map(with));
        for (elb, fault) in ELB.iter().enumerate() {
            // What is static was read before the freeze; and to which of two runs at once a fault comes is not known.
            let meets = |action: &&&str| match circumstance {
                Circumstance::Frozen(_) => **action != "DescribeTargetGroups",
                Circumstance::Beside => ACTIONS[..3].contains(*action) && fault.name != DELETED,
                _ => true,
            };
            let actions: Vec<_> = fault.actions.iter().filter(meets).collect();
            if actions.is_empty() {
                continue;
            }
            let action = actions[(number + elb) % actions.len()];
            let settings = Settings::ALL.into_iter().filter(|settings| settings.actions().contains(action));
            let settings: Vec<_> = settings.collect();
            let once = fault.name == DELETED || ((number + elb) % 2 == 0 && circumstance != Circumstance::Beside);
            cases.push(Case { elb: Some((elb, action)), once, ..with(settings[(number + elb) % settings.len()]) });
        }
        let dns = (1..DNS.len()).filter(|dns| {
            let resolves = DNS[*dns].says.is_none();
            DNS[*dns].name != THOUSAND && (resolves || circumstance != Circumstance::Beside)
        });
        cases.extend(dns.map(|dns| Case { dns, ..with(Settings::ALL[(number + dns) % 3]) }));
    }
    cases
}

/// Killed at each step, alone and with a third of the other faults: with each of them at every third step.
async fn of_kills() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut combined: BTreeMap<_, u32> = BTreeMap::new();
    let mut step = 0;
    for settings in Settings::ALL {
        let scene = Scene::new(Case::new(settings)).await;
        scene.world.run(json!({})).await.unwrap();
        let calls = scene.world.aws.calls();
        for kill in (0..calls.len()).flat_map(|calls| [(calls, false), (calls, true)]) {
            // A fault that strikes only later would be none.
            let called = &calls[..kill.0 + usize::from(kill.1)];
            let is_called =
                |action: &str| called.iter().any(|call| call.action == action && call.arn.as_ref() == Some(&scene.db));
            let case = Case { kill: Some((u32::try_from(kill.0).unwrap(), kill.1)), ..Case::new(settings) };
            cases.push(case);
            // Where a call hangs, that is the step to be killed at.
            for (number, fault) in ELB.iter().enumerate().filter(|(_, fault)| !fault.waits) {
                // The action that it was combined with least so far.
                let actions = fault.actions.iter().filter(|action| (step + number) % 3 == 0 && is_called(action));
                let met = |action: &&&str| combined.get(&(number, **action, kill.1)).copied().unwrap_or_default();
                if let Some(action) = actions.min_by_key(met) {
                    *combined.entry((number, *action, kill.1)).or_default() += 1;
                    cases.push(Case { elb: Some((number, action)), once: true, ..case });
                }
            }
            let dns = DNS.iter().enumerate().filter(|(dns, fault)| !fault.waits && (step + dns) % 3 == 0);
            cases.extend(dns.map(|(dns, _)| Case { dns, ..case }));
            cases.push(Case { cloudwatch: 1 + step % 3, ..case });
            step += 1;
        }
    }
    cases
}

/// Runs cases side by side.
async fn run_all(cases: Vec<Case>) -> Vec<Judged> {
    // Those that wait do so while the others compute.
    let (waiting, busy): (Vec<_>, Vec<_>) = cases.into_iter().partition(Case::waits);
    let side_by_side = |cases, most| {
        let begun_when_idle = stream::iter(cases).then(async |case| {
            idle().await;
            case
        });
        let running = begun_when_idle.map(|case| OWN_CLOCK.scope(Cell::default(), run(case)));
        running.buffer_unordered(most).collect::<Vec<_>>()
    };
    let (waited, done) = join(side_by_side(waiting, MOST_WAITING), side_by_side(busy, MOST_BUSY)).await;
    waited.into_iter().chain(done).collect()
}

/// Until there is little to compute: time-outs are real, and a case that has to wait for others would run into them.
async fn idle() {
    for _ in 0..20 {
        let asked = Instant::now();
        sleep(Duration::from_millis(5)).await;
        if asked.elapsed() < Duration::from_millis(25) {
            break;
        }
    }
}

/// The tag by which a target group is bound.
const HOSTNAME_TAG: &str = "nlb-hostname-targets:hostname";

/// Longer than a connection may be idle to be used again.
const IDLE: Duration = Duration::from_millis(5500);

/// Cases that a thread has under way. Each has a dozen sockets, and 1,024 is what a process may commonly have.
const MOST_WAITING: usize = 32;
const MOST_BUSY: usize = 4;

/// Runs the matrix and prints it. `false` where a case breaks a rule.
pub(crate) fn holds() -> bool {
    let began = Instant::now();
    let parts = [
        of_elb(),
        of_dns(),
        of_dns_with_elb(),
        of_cloudwatch(),
        of_listing(),
        of_circumstances(),
        block_on(of_kills()),
    ];
    // `CASE="Shared, DNS slow"` runs those alone that say so.
    let wanted = env::var("CASE").unwrap_or_default();
    let cases = parts.concat().into_iter().filter(|case| case.label().contains(&wanted));
    let mut shares = vec![Vec::new(); threads()];
    let mut next = (0..shares.len()).cycle();
    for case in cases.collect::<BTreeSet<_>>() {
        shares[next.next().unwrap()].push(case);
    }
    let threads: Vec<_> = shares.into_iter().map(|share| thread::spawn(move || block_on(run_all(share)))).collect();
    let mut results: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    // The time-outs are real. What ran into one while others were computing has to hold by itself.
    let missed = |result: &Judged| result.broken.is_empty() && !result.missed.is_empty();
    let repeated: Vec<_> = results.extract_if(.., |result| missed(result)).map(|result| result.case).collect();
    let few = repeated.chunks(MOST_BUSY).flat_map(|few| block_on(run_all(few.to_vec())));
    results.extend(few.collect::<Vec<_>>());
    for (title, columns, rows) in tables(&results) {
        print_table(title, &columns, &rows);
    }
    let wrong: Vec<_> =
        results.iter().filter(|result| !(result.broken.is_empty() && result.missed.is_empty())).collect();
    for Judged { case, broken, missed, .. } in &wrong {
        println!("WRONG: {}\n  {}", case.label(), [&broken[..], missed].concat().join("\n  "));
    }
    let (count, took) = (results.len(), began.elapsed());
    println!(
        "fault matrix: {count} cases, {} of them again by themselves, {} wrong, in {took:.0?}\n",
        repeated.len(),
        wrong.len()
    );
    fleet_holds(&wanted) && wrong.is_empty()
}

/// A fault that strikes a fleet.
struct FleetFault {
    name: &'static str,
    /// What is said of the first [`STRUCK`] groups; `None` where all are done.
    says: Option<&'static str>,
    strike: fn(&World, &[Member]),
}

/// A target group of a fleet: its hostname and ARN, and the target that it is to hold in place of a stale one.
struct Member {
    hostname: String,
    arn: String,
    goal: String,
}

const GROUPS: usize = 60;
const STRUCK: usize = 10;

const FLEET: [FleetFault; 4] = [
    FleetFault { name: "fleet, first server dead", says: None, strike: |_, _| {} },
    FleetFault {
        name: "fleet, DNS hanging for 10 groups",
        says: Some("time-out"),
        strike: |world, members| {
            members.iter().for_each(|member| world.dns.set_reply(&member.hostname, RecordType::A, Reply::Silent));
        },
    },
    FleetFault {
        name: "fleet, ELBv2 hanging for 10 groups",
        says: Some("DescribeTargetHealth"),
        strike: |world, members| {
            let hang = |member: &Member| Fault::on("DescribeTargetHealth", FaultKind::Hang).arn(&member.arn);
            members.iter().for_each(|member| world.aws.fault(hang(member)));
        },
    },
    FleetFault {
        name: "fleet, CloudWatch slow",
        says: None,
        strike: |world, _| world.aws.fault(Fault::on("PutMetricData", FaultKind::SlowReply(Duration::from_secs(1)))),
    },
];

/// Runs a fleet under a fault, and again without it. Returns how long the first run took, and what is wrong.
async fn run_fleet(fault: &FleetFault) -> (Duration, Vec<String>) {
    let mut wrong = Vec::new();
    let world = World::new().await;
    let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let first = (fault.name == FLEET[0].name).then(|| dead.local_addr().unwrap());
    let servers: Vec<_> = first.into_iter().chain([world.dns.address()]).collect();
    let dns = world.dns.clone();
    let tell = |member: &Member| dns.set_a(&member.hostname, &[member.goal.split(':').next().unwrap()]);
    let members: Vec<_> = (1..=GROUPS)
        .map(|number| {
            let arn = world.aws.create_target_group(TargetGroup::new(&format!("g{number:02}")));
            world.aws.add_target(&arn, &format!("10.0.2.{number}"), "healthy");
            let member = Member { hostname: format!("g{number:02}.test"), arn, goal: format!("10.0.1.{number}:5432") };
            tell(&member);
            member
        })
        .collect();
    let struck = if fault.says.is_some() { &members[..STRUCK] } else { &[] };
    (fault.strike)(&world, struck);
    let bindings: Vec<_> = members.iter().map(|member| binding(&member.hostname, &member.arn)).collect();
    let world = world.dns_servers(&servers).set("BINDINGS", Value::from(bindings)).set("ELB_REQUESTS_PER_SECOND", 20);
    let function = world.function().await;

    let began = Instant::now();
    let deadline = Duration::from_secs(30);
    let result = timeout(deadline, invoke_within(&function, json!({}), deadline)).await;
    let took = began.elapsed();
    check!(wrong, result.is_ok(), "rule 10: no reply before the deadline");
    let message = match result {
        Ok(Err(error)) => error.to_string(),
        _ => String::new(),
    };
    let failures: Vec<_> = world.aws.metrics().into_iter().filter(|metric| metric.name == "Failures").collect();
    for (number, Member { hostname, arn, goal }) in members.iter().enumerate() {
        let is_struck = number < struck.len();
        let cause = message.split(" | ").find(|cause| cause.contains(arn.as_str()));
        let is_told = cause
            .zip(fault.says)
            .is_some_and(|(cause, says)| cause.contains(hostname.as_str()) && cause.contains(says));
        check!(wrong, cause.is_some() == is_struck && is_told == is_struck, "{hostname}: {cause:?}");
        let registered = world.aws.registered(arn);
        let is_done = registered == BTreeSet::from([goal.clone()]);
        check!(wrong, is_struck || is_done, "rule 10: {hostname} was not done: {registered:?}");
        check!(wrong, !registered.is_empty(), "{hostname}: the target group was emptied");
        let of_group = |metric: &&Metric| arn.ends_with(metric.dimensions["TargetGroup"].as_str());
        let values: Vec<_> = failures.iter().filter(of_group).map(|metric| metric.value).collect();
        check!(wrong, values == [f64::from(u8::from(is_struck))], "{hostname}: Failures is {values:?}");
    }

    world.aws.clear_faults();
    members.iter().for_each(tell);
    let result = invoke(&function, json!({})).await;
    let open =
        members.iter().filter(|member| world.aws.registered(&member.arn) != BTreeSet::from([member.goal.clone()]));
    let open: Vec<_> = open.map(|member| &member.hostname).collect();
    check!(wrong, result.is_ok() && open.is_empty(), "it does not converge: {open:?}, {result:?}");
    wrong.extend(world.aws.take_violations());
    (took, wrong)
}

/// Runs the faults of a fleet side by side, and prints them.
fn fleet_holds(wanted: &str) -> bool {
    let faults: Vec<_> = FLEET.iter().filter(|fault| fault.name.contains(wanted)).collect();
    let threads: Vec<_> =
        faults.into_iter().map(|fault| (fault, thread::spawn(|| block_on(run_fleet(fault))))).collect();
    let mut rows = Vec::new();
    let mut holds = true;
    for (fault, thread) in threads {
        let (mut took, mut wrong) = thread.join().unwrap();
        if !wrong.is_empty() {
            // Perhaps for want of time: then it has to hold by itself.
            (took, wrong) = block_on(run_fleet(fault));
        }
        let struck = fault.says.map_or(0, |_| STRUCK);
        let cells =
            [format!("{} done", GROUPS - struck), format!("{struck} told"), format!("{:.0} s", took.as_secs_f64())];
        rows.push((fault.name.to_owned(), cells.to_vec()));
        if !wrong.is_empty() {
            println!("WRONG: {}\n  {}", fault.name, wrong.join("\n  "));
            holds = false;
        }
    }
    print_table("A fleet of 60 target groups", &["in step", "failed", "the run took"], &rows);
    holds
}

/// Title, columns and rows.
type Table = (&'static str, Vec<&'static str>, Vec<(String, Vec<String>)>);

fn tables(results: &[Judged]) -> [Table; 6] {
    let cell = |belongs: &dyn Fn(&Case) -> bool| {
        let count =
            |outcome| results.iter().filter(|result| result.outcome == outcome && belongs(&result.case)).count();
        let counts = [(Outcome::Done, "done"), (Outcome::Told, "told"), (Outcome::Killed, "killed")];
        let counts = counts.map(|(outcome, word)| (count(outcome), word));
        let counts = counts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}"));
        counts.collect::<Vec<_>>().join(", ")
    };
    let is_alone = |case: &Case| {
        let is_kind = case.circumstance == Circumstance::Kind;
        is_kind
            && case.kill.is_none()
            && case.dns == 0
            && case.elb.is_none()
            && case.cloudwatch == 0
            && case.listing.is_none()
    };
    let elb = ELB.iter().enumerate().map(|(number, fault)| {
        let of = |action| cell(&|case| case.elb == Some((number, action)) && is_alone(&Case { elb: None, ..*case }));
        (fault.name.to_owned(), ACTIONS.map(of).to_vec())
    });
    let dns = DNS.iter().enumerate().map(|(number, fault)| {
        let alone = cell(&|case| case.dns == number && is_alone(&Case { dns: 0, ..*case }));
        let with = cell(&|case| case.dns == number && case.elb.is_some() && case.kill.is_none());
        (fault.name.to_owned(), vec![alone, with])
    });
    let cloudwatch = CLOUDWATCH.iter().enumerate().map(|(number, fault)| {
        let alone = cell(&|case| case.cloudwatch == number && is_alone(&Case { cloudwatch: 0, ..*case }));
        let with = |case: &Case| case.cloudwatch == number && (case.elb.is_some() || case.dns > 0);
        (fault.name.to_owned(), vec![alone, cell(&|case| with(case) && case.kill.is_none())])
    });
    let listing = LISTING.iter().enumerate().map(|(number, fault)| {
        let of = |is_known| {
            cell(&|case| case.listing == Some((number, is_known)) && is_alone(&Case { listing: None, ..*case }))
        };
        let with = |case: &Case| case.elb.is_some() || case.dns > 0;
        let with = cell(&|case| case.listing.is_some_and(|(of, _)| of == number) && with(case));
        (fault.name.to_owned(), vec![of(false), of(true), with])
    });
    let circumstances = Circumstance::ALL.into_iter().skip(1).map(|circumstance| {
        let of = |belongs: fn(&Case) -> bool| cell(&|case| case.circumstance == circumstance && belongs(case));
        let alone = of(|case| case.elb.is_none() && case.dns == 0);
        (circumstance.name(), vec![alone, of(|case| case.elb.is_some()), of(|case| case.dns > 0)])
    });
    let kills: BTreeSet<_> = results.iter().filter_map(|result| result.case.kill).collect();
    let kills = kills.into_iter().map(|kill| {
        let of = |settings| cell(&|case| case.kill == Some(kill) && case.settings == settings);
        let when = if kill.1 { "after" } else { "before" };
        (format!("{when} call {} was carried out", kill.0 + 1), Settings::ALL.map(of).to_vec())
    });
    [
        ("ELBv2: each fault on each action, once and throughout", ACTIONS.to_vec(), elb.collect()),
        ("DNS: each fault", vec!["alone", "with each fault of ELBv2"], dns.collect()),
        ("CloudWatch: each fault", vec!["alone", "with faults of DNS and ELBv2"], cloudwatch.collect()),
        (
            "GetResources: each fault, once and throughout",
            vec!["before groups were found", "after that", "with faults of DNS and ELBv2"],
            listing.collect(),
        ),
        (
            "What production is like",
            vec!["alone", "with each fault of ELBv2", "with each fault of DNS"],
            circumstances.collect(),
        ),
        (
            "Killed at each step, alone and with each fault, where it was reached",
            vec!["exclusive", "exclusive with grace", "shared"],
            kills.collect(),
        ),
    ]
}

fn print_table(title: &str, columns: &[&str], rows: &[(String, Vec<String>)]) {
    let header = [&[""], columns].concat().into_iter().map(ToOwned::to_owned).collect();
    let rows = rows.iter().map(|(name, cells)| [vec![name.clone()], cells.clone()].concat());
    let lines: Vec<Vec<String>> = [header].into_iter().chain(rows).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or_default();
    println!("{title}\n");
    for line in &lines {
        let cells = line.iter().enumerate().map(|(column, cell)| format!("{cell:width$}", width = width(column)));
        println!("  {}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    println!();
}
