//! The fault matrix: what DNS, ELBv2, CloudWatch and GetResources do wrong, alone and in pairs, a run that is killed at each of
//! its steps, and what production is like besides: reads that lag, a freeze, other groups by the dozen. After each the
//! contract's rules hold, and once the fault is gone one run converges.
//!
//! In the table that is printed, "Done" is a case in which the target group was in step all the same, "Told" one in
//! which the failure was in the error message.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    env,
    net::SocketAddr,
    thread,
    time::{Duration, Instant, UNIX_EPOCH},
};

use fastrand::Rng;
use futures_util::{StreamExt, future::join, stream};
use hickory_proto::rr::RecordType;
use nlb_hostname_targets::function::{Function, RunError};
use serde_json::{Value, json};
use support::{
    Log, OWN_CLOCK, World, advance,
    aws::{Call, Fault, FaultKind, TWICE, TargetGroup},
    binding,
    dns::{Quirk, Reply, hostile},
    front::{Death, Front},
    invoke, invoke_within, now, targets,
};
use tokio::{
    net::UdpSocket,
    select,
    time::{sleep, timeout},
};
use tracing::instrument::WithSubscriber;

use crate::{
    block_on, threads,
    truth::{ACTIONS, PREFIX, Truth, repeated},
};

/// Collects what is not as it should be.
macro_rules! check {
    ($problems:ident, $condition:expr, $($message:tt)+) => {
        if !$condition {
            $problems.push(format!($($message)+));
        }
    };
}

/// What the name that is struck does, and its server to all names.
struct DnsFault {
    name: &'static str,
    reply: fn() -> Reply,
    quirks: &'static [Quirk],
    /// What the error message has to hold; `None` where the name resolves all the same.
    says: Option<&'static str>,
    waits: bool,
}

const RESOLVES: fn() -> Reply = || Reply::addresses(&["10.0.1.10", "10.0.1.11"]);
const FIRST_SERVER_DEAD: &str = "first server dead";
const FIRST_SERVER_CLOSED: &str = "first server closed";
const THOUSAND: &str = "1,000 addresses";

const DNS: [DnsFault; 23] = {
    const fn fault(name: &'static str, says: &'static str, reply: fn() -> Reply) -> DnsFault {
        DnsFault { name, reply, quirks: &[], says: Some(says), waits: false }
    }
    const fn resolves(name: &'static str, waits: bool, reply: fn() -> Reply) -> DnsFault {
        DnsFault { name, reply, quirks: &[], says: None, waits }
    }
    const fn quirk(name: &'static str, waits: bool, quirks: &'static [Quirk]) -> DnsFault {
        DnsFault { quirks, ..resolves(name, waits, RESOLVES) }
    }
    [
        resolves("fine", false, RESOLVES),
        fault("NXDOMAIN", "NXDOMAIN", || Reply::NxDomain { negative_ttl: Some(1) }),
        fault("no data", "no data", || Reply::NoData { negative_ttl: Some(1) }),
        fault("SERVFAIL", "SERVFAIL", || Reply::ServFail),
        fault("REFUSED", "REFUSED", || Reply::Refused),
        fault("not implemented", "response code", || Reply::Raw(hostile::not_implemented)),
        DnsFault { waits: true, ..fault("time-out", "time-out", || Reply::Silent) },
        fault("malformed", "malformed", || Reply::Raw(hostile::garbage_with_id)),
        fault("cut short", "malformed", || Reply::Raw(hostile::cut_short)),
        fault("compression loop", "malformed", || Reply::Raw(hostile::pointer_loop)),
        DnsFault { waits: true, ..fault("wrong id", "time-out", || Reply::Raw(hostile::wrong_id)) },
        resolves(FIRST_SERVER_DEAD, true, RESOLVES),
        resolves(FIRST_SERVER_CLOSED, false, RESOLVES),
        resolves("slow", true, || RESOLVES().delayed(Duration::from_millis(1200))),
        resolves("only over TCP", false, || RESOLVES().truncated()),
        resolves("SERVFAIL once", false, || Reply::sequence([Reply::ServFail, RESOLVES()])),
        quirk("EDNS is FORMERR", false, &[Quirk::EdnsFormErr]),
        quirk("EDNS is NOTIMP", false, &[Quirk::EdnsNotImp]),
        quirk("EDNS is dropped", true, &[Quirk::EdnsDropped]),
        quirk("by TCP alone", true, &[Quirk::TcpOnly]),
        quirk("cut without TC", false, &[Quirk::Cut]),
        quirk("cut, and no EDNS", false, &[Quirk::Cut, Quirk::EdnsFormErr]),
        // The target group takes 1,000 targets, and it has others to hold, too.
        DnsFault {
            waits: true,
            ..fault(THOUSAND, "TooManyTargets", || {
                let addresses = (0..1000).map(|number| format!("10.0.{}.{}", 64 + number / 250, 1 + number % 250));
                Reply::Addresses(addresses.map(|address| address.parse().unwrap()).collect()).truncated()
            })
        },
    ]
};

/// What an API of AWS does to calls: ELBv2 to those on the target group that is struck.
pub(crate) struct ApiFault {
    pub(crate) name: &'static str,
    pub(crate) kind: fn() -> FaultKind,
    actions: &'static [&'static str],
    /// What the error message has to hold beside the action.
    says: &'static str,
    /// Whether a run gets over it where it strikes once.
    passes: bool,
    pub(crate) waits: bool,
}

/// Those of [`ACTIONS`] that change targets or tell them.
const OF_TARGETS: &[&str] = &["DescribeTargetHealth", "RegisterTargets", "DeregisterTargets"];
pub(crate) const DELETED: &str = "deleted in between";
const REFUSED: &str = "a target refused";

/// What AWS says where it can't tell the targets.
const CANNOT_TELL: [&str; 3] = ["500", "503", "HealthUnavailable"];
/// What it does where the role may not ask, or the call hangs.
const MAY_NOT_ASK: [&str; 3] = ["AccessDenied", "hanging", "lost reply"];
/// What it refuses for good of all that is to be registered.
const FOR_GOOD: [&str; 2] = ["InvalidTarget", "TooManyRegistrationsForTargetId"];

/// A fault that a run gets over where it strikes once.
const fn passes(name: &'static str, says: &'static str, kind: fn() -> FaultKind) -> ApiFault {
    ApiFault { name, kind, actions: &ACTIONS, says, passes: true, waits: false }
}

/// One of some actions alone that it does not get over.
const fn stays(actions: &'static [&'static str], says: &'static str, kind: fn() -> FaultKind) -> ApiFault {
    ApiFault { actions, passes: false, ..passes(says, says, kind) }
}

const fn waits(fault: ApiFault) -> ApiFault {
    ApiFault { waits: true, ..fault }
}

pub(crate) const ELB: [ApiFault; 23] = [
    passes("Throttling", "Throttling: Rate exceeded", FaultKind::throttling),
    passes("ThrottlingException", "ThrottlingException", || refusal("ThrottlingException")),
    passes("500", "InternalFailure", || FaultKind::error(500, "InternalFailure", "not now")),
    passes("503", "HTTP status 503", || FaultKind::body(503, "<html>Service Unavailable</html>")),
    passes("reset before", "", || FaultKind::ResetBefore),
    passes("reset after", "", || FaultKind::ResetAfter),
    waits(passes("lost reply", "no reply in time", || FaultKind::LoseReply)),
    waits(passes("hanging", "still waiting for", || FaultKind::Hang)),
    passes("expired", "Signature expired", || {
        FaultKind::error(403, "SignatureDoesNotMatch", "Signature expired: 20261122T090000Z is now earlier than so")
    }),
    ApiFault { passes: true, ..stays(OF_TARGETS, "RequestExpired", || refusal("RequestExpired")) },
    ApiFault { passes: true, ..stays(OF_TARGETS, "ExpiredToken", || refusal("ExpiredToken")) },
    ApiFault { passes: true, ..stays(OF_TARGETS, "RequestTimeTooSkewed", || refusal("RequestTimeTooSkewed")) },
    ApiFault { passes: false, ..passes("not XML", "can't be read", || FaultKind::body(200, SIGN_IN)) },
    stays(&ACTIONS, "AccessDenied", || FaultKind::error(403, "AccessDenied", "not authorized")),
    ApiFault { name: DELETED, ..stays(&ACTIONS, "TargetGroupNotFound", || FaultKind::DeleteGroup) },
    stays(&ACTIONS, "TargetGroupNotFound", || refusal("TargetGroupNotFound")),
    stays(OF_TARGETS, FOR_GOOD[0], || refusal(FOR_GOOD[0])),
    ApiFault { passes: true, ..stays(&["DescribeTargetHealth"], "HealthUnavailable", FaultKind::health_unavailable) },
    ApiFault {
        name: REFUSED,
        ..stays(&["DeregisterTargets"], "10.0.1.9", || FaultKind::RefuseTarget("10.0.1.9".to_owned()))
    },
    stays(&["RegisterTargets"], "TooManyTargets", || refusal("TooManyTargets")),
    stays(&["RegisterTargets"], FOR_GOOD[1], || refusal(FOR_GOOD[1])),
    stays(&["AddTags"], "TooManyTags", || refusal("TooManyTags")),
    stays(&["AddTags"], "DuplicateTagKeys", || refusal("DuplicateTagKeys")),
];

const SIGN_IN: &str = "<!doctype html><p>Sign in to go on";

fn refusal(code: &str) -> FaultKind {
    FaultKind::error(400, code, "so it is")
}

/// Of PutMetricData, throughout unless it passes. What stays loses metrics, which no error message tells.
const CLOUDWATCH: [ApiFault; 4] = [
    ApiFault { passes: false, ..passes("refused", "", || refusal("AccessDenied")) },
    ApiFault { passes: false, ..passes("hanging", "", || FaultKind::Hang) },
    passes("slow", "", || FaultKind::SlowReply(Duration::from_secs(1))),
    passes("expired", "", || refusal("ExpiredToken")),
];

/// Of GetResources, where target groups are bound by their tags.
const LISTING: [ApiFault; 11] = [
    passes("Throttled", "ThrottledException", || refusal("ThrottledException")),
    passes("500", "InternalServiceException", || FaultKind::error(500, "InternalServiceException", "not now")),
    passes("503", "HTTP status 503", || FaultKind::body(503, "<html>Service Unavailable</html>")),
    passes("expired", "Signature expired", || FaultKind::error(400, "InvalidSignatureException", "Signature expired")),
    passes("reset before", "", || FaultKind::ResetBefore),
    passes("reset after", "", || FaultKind::ResetAfter),
    waits(passes("lost reply", "", || FaultKind::LoseReply)),
    waits(passes("hanging", "", || FaultKind::Hang)),
    stays(&[], "tag:GetResources", || FaultKind::error(400, "AccessDeniedException", "not authorized")),
    ApiFault { passes: false, ..passes("not JSON", "", || FaultKind::body(200, SIGN_IN)) },
    ApiFault {
        passes: false,
        ..passes("cut short", "", || {
            FaultKind::body(200, "{\"ResourceTagMappingList\":[{\"ResourceARN\":\"arn:aws:elas")
        })
    },
];

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
}

/// Whether new targets are registered although this is struck.
fn registers_without(fault: &ApiFault, action: &str) -> bool {
    match action {
        "DescribeTargetHealth" => CANNOT_TELL.contains(&fault.name),
        _ => !["DescribeTargetGroups", "RegisterTargets"].contains(&action),
    }
}

/// Longer than any of these runs takes.
const GRACE: i64 = 600;

/// What production is like, beside what goes wrong.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Circumstance {
    /// As kind as an emulation is.
    Kind,
    /// Reads of targets and tags show what was so many milliseconds ago.
    ReadsLag(u64),
    /// The execution environment was frozen since its last run, and its connections have died so.
    Frozen(Death),
    /// A dozen groups more, of which nothing is struck.
    Fleet,
}

impl Circumstance {
    const ALL: [Self; 6] = [
        Self::ReadsLag(500),
        Self::ReadsLag(5000),
        Self::Frozen(Death::Fin),
        Self::Frozen(Death::Rst),
        Self::Frozen(Death::Silent),
        Self::Fleet,
    ];

    fn lag(self) -> Duration {
        match self {
            Self::ReadsLag(milliseconds) => Duration::from_millis(milliseconds),
            _ => Duration::ZERO,
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
    cloudwatch: Option<usize>,
    /// Of [`LISTING`], where the target groups are bound by their tags; and whether the execution environment has found
    /// them before.
    listing: Option<(Option<usize>, bool)>,
    /// After how many calls, and whether the next one is still carried out.
    kill: Option<(usize, bool)>,
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
        Self { settings, dns: 0, elb: None, once: false, cloudwatch: None, listing: None, kill: None, circumstance }
    }

    /// What is wrong in both.
    fn and(self, other: Self) -> Self {
        Self {
            settings: self.settings,
            dns: self.dns.max(other.dns),
            elb: self.elb.or(other.elb),
            once: self.once || other.once,
            cloudwatch: self.cloudwatch.or(other.cloudwatch),
            listing: self.listing.or(other.listing),
            kill: self.kill.or(other.kill),
            circumstance: self.circumstance.max(other.circumstance),
        }
    }

    fn dns(&self) -> &'static DnsFault {
        &DNS[self.dns]
    }

    fn elb(&self) -> Option<(&'static ApiFault, &'static str)> {
        self.elb.map(|(number, action)| (&ELB[number], action))
    }

    fn has_elb(&self, name: &str) -> bool {
        self.elb().is_some_and(|(fault, _)| fault.name == name)
    }

    fn cloudwatch(&self) -> Option<&'static ApiFault> {
        self.cloudwatch.map(|number| &CLOUDWATCH[number])
    }

    /// What becomes of GetResources.
    fn get_resources(&self) -> Option<&'static ApiFault> {
        Some(&LISTING[self.listing?.0?])
    }

    /// What keeps the run from finding target groups by their tags.
    fn listing(&self) -> Option<&'static ApiFault> {
        self.get_resources().filter(|fault| !(self.once && fault.passes))
    }

    /// Whether the run knows no target group.
    fn is_blind(&self) -> bool {
        self.listing().is_some() && self.listing.is_some_and(|(_, is_known)| !is_known)
    }

    /// Whether it spends its time waiting rather than computing.
    fn waits(&self) -> bool {
        let faults = [self.elb().map(|(fault, _)| fault), self.get_resources()];
        let passes_time = |it| matches!(it, Circumstance::ReadsLag(_) | Circumstance::Frozen(_));
        let waits = faults.into_iter().flatten().any(|fault| fault.waits);
        self.dns().waits || waits || self.cloudwatch.is_some() || passes_time(self.circumstance)
    }

    /// What ELBv2 does to this action all the time.
    fn throughout(&self, action: &str) -> Option<&'static str> {
        let (fault, struck) = self.elb().filter(|_| !self.once)?;
        (struck == action).then_some(fault.name)
    }

    fn is_deleted(&self) -> bool {
        self.has_elb(DELETED)
    }

    /// All that is wrong.
    fn faults(&self) -> Vec<String> {
        let once = if self.once { ", once" } else { "" };
        let faults = [
            (self.dns > 0).then(|| format!("DNS {}", self.dns().name)),
            self.elb().map(|(fault, action)| format!("{action} {}{once}", fault.name)),
            self.cloudwatch().map(|fault| format!("CloudWatch {}", fault.name)),
            self.listing.map(|(_, is_known)| match self.get_resources() {
                Some(fault) => format!("GetResources {}{once}, groups known: {is_known}", fault.name),
                None => format!("bound by tags, groups known: {is_known}"),
            }),
            self.kill.map(|(calls, carried_out)| format!("killed after {calls} calls, one more: {carried_out}")),
            (self.circumstance != Circumstance::Kind).then(|| format!("{:?}", self.circumstance)),
        ];
        faults.into_iter().flatten().collect()
    }

    fn label(&self) -> String {
        format!("{:?}, {}", self.settings, self.faults().join(" and "))
    }

    /// Whether what is wrong is met by a run, so that it can be judged what came of it.
    fn is_met(&self, calls: &BTreeMap<Settings, Vec<Call>>) -> bool {
        let resolves = self.dns().says.is_none();
        if self.dns().name == THOUSAND {
            return *self == Self { dns: self.dns, cloudwatch: self.cloudwatch, ..Self::new(self.settings) };
        }
        if self.circumstance != Circumstance::Kind && (self.kill.is_some() || self.listing.is_some()) {
            return false;
        }
        if let Some((number, carried_out)) = self.kill {
            // Where a call hangs, that is the step to be killed at.
            let waits = self.dns().waits || self.elb().is_some_and(|(fault, _)| fault.waits || !self.once);
            let called = calls[&self.settings].get(..number + usize::from(carried_out));
            // A fault that strikes only later would be none.
            let is_called = |action| called.is_some_and(|called| called.iter().any(|call| call.action == action));
            let is_found = self.get_resources().is_none();
            if waits || !is_found || called.is_none() || self.elb.is_some_and(|(_, action)| !is_called(action)) {
                return false;
            }
        }
        let Some((fault, action)) = self.elb() else { return !self.once || self.get_resources().is_some() };
        let is_reached = match action {
            // What is static was read before.
            "DescribeTargetGroups" => {
                !matches!(self.circumstance, Circumstance::Frozen(_)) && self.listing.is_none_or(|(_, known)| !known)
            }
            // Of a name that does not resolve, nothing is deregistered.
            "DeregisterTargets" | "RemoveTags" => resolves,
            "AddTags" => resolves || self.settings == Settings::Shared,
            _ => true,
        };
        let is_of_settings = ACTIONS[..4].contains(&action) || self.settings != Settings::Plain;
        // That the group is gone is no failure of one that was found: an integration test has it.
        let is_found = self.listing.is_none() || !["TargetGroupNotFound", DELETED].contains(&fault.name);
        is_reached && is_of_settings && is_found && !self.is_blind() && (self.once || !self.is_deleted())
    }
}

/// The target group that is struck, `db`, and others.
///
/// `db` is bound to `db.test`, which gives .10 and .11, and to `also.test`, which gives .20 and an address that may not
/// be registered. It holds .8 and .9, which DNS does not give. Each of the others holds one target, and DNS gives another.
struct Scene {
    world: World,
    settings: Settings,
    circumstance: Circumstance,
    db: String,
    others: Vec<String>,
    /// Between the function and AWS, where connections die.
    front: Option<Front>,
    _dead: UdpSocket,
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
        let others = 0..if case.circumstance == Circumstance::Fleet { 12 } else { 1 };
        let others: Vec<_> =
            others.map(|other| world.aws.create_target_group(TargetGroup::new(&format!("other-{other}")))).collect();
        others.iter().for_each(|other| world.aws.add_target(other, "10.0.2.9", "healthy"));
        world.aws.add_target(&db, "10.0.1.8", "healthy");
        world.aws.add_target(&db, "10.0.1.9", "healthy");
        world.aws.add_target(&db, "10.0.1.7", "draining");
        world.aws.set_tag(&db, "team", "data");
        let long_ago = format!("{}.000", now().duration_since(UNIX_EPOCH).unwrap().as_secs() - 1000);
        let (of_db, tags) = match case.settings {
            Settings::Plain => (json!({}), vec![]),
            // The grace of .9 is over, .8 is not known to be missing yet, and .11 is back.
            Settings::Grace => {
                world.aws.add_target(&db, "10.0.1.11", "healthy");
                let tags = vec![("missing/10.0.1.9_5432", &*long_ago), ("missing/10.0.1.11_5432", &*long_ago)];
                (json!({"deregister_after_seconds": GRACE}), tags)
            }
            // .99 is somebody else's, and .6 is long gone.
            Settings::Shared => {
                world.aws.add_target(&db, "10.0.1.99", "healthy");
                let tags = vec![
                    ("owned/10.0.1.6_5432/", &*long_ago),
                    ("owned/10.0.1.7_5432/", "used"),
                    ("owned/10.0.1.8_5432/", "used"),
                    ("owned/10.0.1.9_5432/", "used"),
                ];
                (json!({"ownership": "shared"}), tags)
            }
        };
        tags.iter().for_each(|(key, value)| world.aws.set_tag(&db, &format!("{PREFIX}{key}"), value));
        let world = if case.listing.is_some() {
            let of_tags = of_db.as_object().unwrap().iter();
            let of_tags = of_tags.map(|(field, value)| (field.replace('_', "-"), value.to_string().replace('"', "")));
            for (name, value) in of_tags.chain([("hostname".to_owned(), "db.test also.test".to_owned())]) {
                world.aws.set_tag(&db, &format!("{PREFIX}{name}"), &value);
            }
            others.iter().for_each(|other| world.aws.set_tag(other, HOSTNAME_TAG, "other.test"));
            world.set("DISCOVERY", "tags")
        } else {
            world
        };
        let with = |mut binding: Value| {
            binding.as_object_mut().unwrap().extend(of_db.as_object().unwrap().clone());
            binding
        };
        let of_db = [with(binding("db.test", &db)), with(binding("also.test", &db))];
        let bindings = of_db.into_iter().chain(others.iter().map(|other| binding("other.test", other)));
        let bindings = Value::from_iter(bindings);
        let mut world = if case.listing.is_some() { world } else { world.set("BINDINGS", bindings) };
        let mut front = None;
        if let Circumstance::Frozen(_) = case.circumstance {
            let relay = Front::new(world.aws.address()).await;
            world = world.set("AWS_ENDPOINT_URL", format!("http://{}", relay.address()));
            front = Some(relay);
        }
        let lag = case.circumstance.lag();
        world.aws.reconfigure(&db, |group| (group.target_lag, group.tag_lag) = (lag, lag));
        let world = world.dns_servers(&servers);
        world.dns.set_quirks(case.dns().quirks);
        let (settings, circumstance) = (case.settings, case.circumstance);
        Self { world, settings, circumstance, db, others, front, _dead: dead }
    }

    /// What is registered once all is well; .8 goes when its grace is over.
    fn goal(&self) -> BTreeSet<String> {
        targets(match self.settings {
            Settings::Plain => &[10, 11, 20],
            Settings::Grace => &[8, 10, 11, 20],
            Settings::Shared => &[10, 11, 20, 99],
        })
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
    async fn discover(&self, case: Case, function: &Function) {
        if let Some((_, true)) = case.listing {
            // It has 3 s for it, which may not suffice where others compute.
            for _ in 0..5 {
                if invoke(function, json!({"dry_run": true})).await.is_ok() {
                    break;
                }
            }
            self.world.aws.clear_calls();
            advance(61);
        }
    }

    /// What the other groups lack or hold too much.
    fn others_lack(&self) -> Vec<BTreeSet<String>> {
        let goal = BTreeSet::from(["10.0.2.10:5432".to_owned()]);
        self.others.iter().map(|other| self.world.aws.registered(other)).filter(|it| *it != goal).collect()
    }
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
    let Scene { world, db, .. } = &scene;
    let mut broken = Vec::new();
    let mut missed = Vec::new();
    let function = world.function().await;
    scene.freeze(&function, &mut missed).await;
    scene.discover(case, &function).await;

    if let Some((calls, carried_out)) = case.kill {
        let kind = if carried_out { FaultKind::LoseReply } else { FaultKind::Hang };
        world.aws.fault(Fault::any(kind).after(u32::try_from(calls).unwrap()).times(1));
    }
    if let Some((fault, action)) = case.elb() {
        let strike = Fault::on(action, (fault.kind)()).arn(db);
        world.aws.fault(if case.once || case.is_deleted() { strike.times(1) } else { strike });
    }
    if let Some(fault) = case.cloudwatch() {
        let strike = Fault::on("PutMetricData", (fault.kind)());
        world.aws.fault(if fault.passes { strike.times(1) } else { strike });
    }
    if let Some(fault) = case.get_resources() {
        let strike = Fault::on("GetResources", (fault.kind)());
        world.aws.fault(if case.once { strike.times(1) } else { strike });
    }
    world.dns.set_reply("db.test", RecordType::A, (case.dns().reply)());

    let hangs = case.has_elb("hanging") && !case.once;
    let lists_late = case.listing().is_some_and(|fault| fault.waits);
    let deadline = Duration::from_secs(match case.dns().name {
        // A call that hangs is given up by itself after 12 s: here it is the deadline that is near.
        _ if hangs || (lists_late && !case.elb().is_some_and(|(fault, _)| fault.waits)) => 9,
        THOUSAND => 60,
        _ => 30,
    });
    let (log, dispatch) = Log::dispatch();
    let running = invoke_within(&function, json!({}), deadline).with_subscriber(dispatch);
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
            let is_lost = case.cloudwatch().is_some_and(|fault| !fault.passes);
            let is_lost = is_lost && !case.is_blind();
            check!(missed, is_warned == is_lost, "metrics were lost: {is_lost}, the log says so: {is_warned}");
            judge_reply(case, &scene, &result, &mut broken, &mut missed)
        }
    };

    let is_unresolved = case.dns().says.is_some() && case.dns().name != THOUSAND;
    let also = targets(&[20]);
    let mut given = also.clone();
    if let Reply::Addresses(addresses) = whole((case.dns().reply)()) {
        given.extend(addresses.into_iter().map(|address| format!("{address}:5432")));
    }
    let full = case.dns().name == THOUSAND || case.has_elb("TooManyTargets");
    let mut untouchable = targets(&[7, 99]);
    if case.settings == Settings::Grace {
        untouchable.extend(targets(&[8]));
    }
    let mut truth = Truth {
        arn: db,
        acceptable: given.clone(),
        given,
        untouchable,
        unresolved: is_unresolved,
        // Where the tags can't be read or written, or so many find no place in them, the error says so.
        shared: case.settings == Settings::Shared
            && case.dns().name != THOUSAND
            && !case.elb().is_some_and(|(_, action)| action.ends_with("Tags")),
        full,
        refused: FOR_GOOD.iter().any(|name| case.has_elb(name)),
    };
    broken.extend(truth.broken_by(&calls));
    broken.extend(repeated(db, &calls));
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
        let registers_without = |(fault, action): (&ApiFault, &str)| !hangs && registers_without(fault, action);
        let can_register = outcome != Outcome::Killed && !case.is_blind() && case.elb().is_none_or(registers_without);
        check!(missed, !can_register || after.is_superset(&also), "not registered: {after:?}");
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
        check!(missed, scene.others_lack().is_empty(), "rule 10: others were not done: {:?}", scene.others_lack());
    }

    // The fault is gone. Who was killed comes back as a new execution environment, others go on.
    world.aws.clear_faults();
    world.dns.set_quirks(&[]);
    world.dns.set_reply("db.test", RecordType::A, RESOLVES());
    let function = if outcome == Outcome::Killed { world.function().await } else { function };
    // Until reads show what was written.
    sleep(scene.circumstance.lag()).await;
    let result = invoke(&function, json!({})).await;
    let message = result.as_ref().map_or_else(ToString::to_string, ToString::to_string);
    truth.given = &targets(&[10, 11]) | &also;
    truth.acceptable.extend(truth.given.clone());
    truth.unresolved = false;
    truth.refused = false;
    broken.extend(truth.broken_by(&world.aws.calls()[calls.len()..]));
    if deleted {
        check!(missed, message.contains("TargetGroupNotFound"), "a deleted group goes unnoticed: {message}");
    } else if case.dns().name != THOUSAND {
        // One that has given 8 addresses or more answers with samples, so that none of the 1,000 goes for lack of evidence.
        let registered = world.aws.registered(db);
        check!(missed, registered == scene.goal(), "no convergence: {registered:?}: {message}");
        check!(missed, result.is_ok(), "it does not recover: {message}");
    }
    check!(missed, scene.others_lack().is_empty(), "others do not converge: {:?}", scene.others_lack());

    // What waits goes when its time has come.
    if case.settings == Settings::Grace && !deleted {
        sleep(scene.circumstance.lag()).await;
        advance(GRACE + 1);
        let result = invoke(&function, json!({})).await;
        let registered = world.aws.registered(db);
        let is_over = registered == truth.given || case.dns().name == THOUSAND;
        check!(missed, is_over, "the grace is over: {registered:?}, {result:?}");
    }
    // To repeat a request of which no reply came is not to deregister a second time.
    let is_repeated = case.elb().is_some_and(|(fault, action)| {
        action == "DeregisterTargets" && ["lost reply", "reset after"].contains(&fault.name)
    });
    let violations = world.aws.take_violations().into_iter();
    broken.extend(violations.filter(|violation| !is_repeated || !violation.contains(TWICE)));
    Judged { case, outcome, broken, missed }
}

fn whole(reply: Reply) -> Reply {
    match reply {
        Reply::Delayed(_, reply) | Reply::Truncated(reply) => whole(*reply),
        Reply::Sequence(mut replies) => replies.pop_back().unwrap(),
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
    let Scene { world, db, .. } = scene;
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
    let has_other_reason = case.dns().says.is_some();
    if let Some((fault, action)) = strikes {
        // That one target was not accepted once, the next call may make up for.
        if !case.once || (is_failed && !has_other_reason) {
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
    for word in &words {
        check!(missed, message.contains(word), "{word} is not in the message: {message}");
    }
    if is_failed {
        let is_right = !words.is_empty() || has_other_reason;
        check!(missed, is_right, "there was no reason to fail: {message}");
        check!(missed, message.contains("db.test") && message.contains(db.as_str()), "no names: {message}");
        check!(missed, !message.contains("other.test") && !message.contains("/other-"), "others: {message}");
    } else if result.is_err() && case.listing().is_none() {
        missed.push(format!("target groups were not found in time: {message}"));
    } else if world.aws.has_target_group(db) {
        let registered = world.aws.registered(db);
        check!(broken, registered == scene.goal(), "it says it is in step: {registered:?}");
    } else {
        broken.push("a deleted group goes unnoticed".to_owned());
    }
    if case.cloudwatch.is_none() {
        let failures = |arn: &str| -> Vec<f64> {
            let metrics = world.aws.metrics();
            let failures = metrics.iter().filter(|metric| metric.name == "Failures");
            let of_group = failures.filter(|metric| arn.ends_with(metric.dimensions["TargetGroup"].as_str()));
            of_group.map(|metric| metric.value).collect()
        };
        let failed = if is_failed { 1.0 } else { 0.0 };
        check!(missed, failures(db) == [failed], "Failures is {:?}", failures(db));
        let is_well = scene.others.iter().all(|other| failures(other) == [0.0]);
        check!(missed, is_well, "other groups are told to have failed");
    }
    outcome
}

/// Each fault alone with all settings, and pairs: some dozens of them, or else all of those of DNS, ELBv2 and circumstances and
/// some of the others. Which, and with which settings and action, is drawn: always the same.
async fn cases(has_all_pairs: bool) -> BTreeSet<Case> {
    let mut calls = BTreeMap::new();
    for settings in Settings::ALL {
        let scene = Scene::new(Case::new(settings)).await;
        scene.world.run(json!({})).await.unwrap();
        calls.insert(settings, scene.world.aws.calls());
    }
    let fine = Case::new(Settings::Plain);
    let elb = |once| {
        let of = move |(number, fault): (usize, &'static ApiFault)| {
            fault.actions.iter().map(move |action| Case { elb: Some((number, *action)), once, ..fine })
        };
        ELB.iter().enumerate().flat_map(of)
    };
    let listing = [None].into_iter().chain((0..LISTING.len()).map(Some));
    let listing = listing.flat_map(|number| [(number, false, false), (number, true, false), (number, true, true)]);
    let dimensions: [Vec<Case>; 6] = [
        (1..DNS.len()).map(|dns| Case { dns, ..fine }).collect(),
        elb(false).chain(elb(true)).collect(),
        Circumstance::ALL.map(|circumstance| Case { circumstance, ..fine }).into(),
        (0..CLOUDWATCH.len()).map(|number| Case { cloudwatch: Some(number), ..fine }).collect(),
        listing.map(|(number, known, once)| Case { listing: Some((number, known)), once, ..fine }).collect(),
        (0..20)
            .flat_map(|calls| [(calls, false), (calls, true)])
            .map(|kill| Case { kill: Some(kill), ..fine })
            .collect(),
    ];
    let mut rng = Rng::with_seed(1);
    let (mut cases, mut pairs) = (BTreeSet::from(Settings::ALL.map(Case::new)), Vec::new());
    for (number, dimension) in dimensions.iter().enumerate() {
        for case in dimension {
            let alone = Settings::ALL.map(|settings| Case { settings, ..*case });
            // What strikes once has one of the settings, and so has what takes long, but where all pairs are wanted.
            let most = if case.once || (case.waits() && !has_all_pairs) { 1 } else { alone.len() };
            cases.extend(alone.into_iter().filter(|case| case.is_met(&calls)).cycle().skip(rng.usize(..3)).take(most));
        }
        for (other, second) in dimensions.iter().enumerate().skip(number + 1) {
            let share = if matches!((number, other), (0 | 1, 1 | 2)) { 1 } else { 8 };
            let mut met = BTreeSet::new();
            for first in dimension {
                let mut second = second.clone();
                rng.shuffle(&mut second);
                for case in second {
                    let case = Case { settings: rng.choice(Settings::ALL).unwrap(), ..first.and(case) };
                    // A pair of faults, whatever the action.
                    let pair = (
                        case.elb.map(|(fault, _)| fault),
                        case.once,
                        Case { elb: None, settings: fine.settings, ..case },
                    );
                    if case.is_met(&calls) && met.insert(pair) && rng.u8(..share) == 0 {
                        pairs.push(case);
                    }
                }
            }
        }
    }
    if !has_all_pairs {
        rng.shuffle(&mut pairs);
        pairs.truncate(FEW_PAIRS);
    }
    cases.extend(pairs);
    cases
}

/// Runs cases side by side.
async fn run_all(cases: Vec<Case>) -> Vec<Judged> {
    // Those that wait do so while the others compute.
    let (mut waiting, busy): (Vec<_>, Vec<_>) = cases.into_iter().partition(Case::waits);
    // The one that takes longest begins first.
    waiting.sort_by_key(|case| case.dns().name != THOUSAND);
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

/// How many pairs of faults `make test` draws.
const FEW_PAIRS: usize = 48;

/// Runs the matrix and prints it. `false` where a case breaks a rule.
pub(crate) fn holds(has_all_pairs: bool) -> bool {
    let began = Instant::now();
    // `CASE="Shared, DNS slow"` runs those alone that say so.
    let wanted = env::var("CASE").unwrap_or_default();
    let cases = block_on(cases(has_all_pairs)).into_iter().filter(|case| case.label().contains(&wanted));
    let cases: Vec<_> = cases.collect();
    let mut shares = vec![Vec::new(); threads()];
    let mut next = (0..shares.len()).cycle();
    for case in cases {
        shares[next.next().unwrap()].push(case);
    }
    let threads: Vec<_> = shares.into_iter().map(|share| thread::spawn(move || block_on(run_all(share)))).collect();
    let mut results: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    // The time-outs are real. What ran into one while others were computing has to hold by itself.
    let missed = |result: &Judged| result.broken.is_empty() && !result.missed.is_empty();
    let repeated: Vec<_> = results.extract_if(.., |result| missed(result)).map(|result| result.case).collect();
    let few = repeated.chunks(MOST_BUSY).flat_map(|few| block_on(run_all(few.to_vec())));
    results.extend(few.collect::<Vec<_>>());
    print_table(&results);
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
    wrong.is_empty()
}

/// What came of each fault alone, and with others.
fn print_table(results: &[Judged]) {
    let mut rows: BTreeMap<String, [BTreeMap<Outcome, usize>; 2]> = BTreeMap::new();
    for Judged { case, outcome, .. } in results {
        let faults = case.faults();
        for fault in &faults {
            *rows.entry(fault.clone()).or_default()[usize::from(faults.len() > 1)].entry(*outcome).or_default() += 1;
        }
    }
    for (fault, [alone, with_others]) in rows {
        println!("  {fault:70} {:30} with others {with_others:?}", format!("{alone:?}"));
    }
}
