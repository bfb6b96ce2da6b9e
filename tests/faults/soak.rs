//! A soak: run after run with random faults, flips of DNS, changes by hand, lost tags, bindings by tags that come and go,
//! kills, freezes and runs beside one another, over target groups of different settings, whose targets may be new for a while and whose reads may lag.
//! Whatever happens, the contract's rules hold; and when it is over, one run converges.
//!
//! It consists of episodes, each with a seed of its own: `SEED=… make soak` begins with that one. `RUNS` and `MINUTES`
//! say how long it goes on. Some episodes spend their time waiting: for a slow name server, in watches. They have threads of their own.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fmt, iter, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    rc::Rc,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use hickory_proto::rr::RecordType;
use nlb_hostname_targets::function::{Function, RunError};
use serde_json::{Value, json};
use support::{
    World, advance,
    aws::{Call, EVERYTHING, Fault, FaultKind, TWICE, TargetGroup},
    dns::{Reply, hostile},
    invoke_within,
};
use tokio::{join, select, time::sleep};

use crate::{
    block_on,
    matrix::{DELETED, ELB},
    threads,
    truth::{ACTIONS, PREFIX, Truth},
};

/// The settings of a target group.
struct Kind {
    name: &'static str,
    shared: bool,
    grace: u32,
    ipv6: bool,
    /// The ports of its bindings, each of a hostname of its own.
    ports: &'static [Option<u16>],
    /// Whether an answer holds but one of the addresses.
    sampled: bool,
}

const KINDS: [Kind; 7] = {
    const PLAIN: Kind = Kind { name: "plain", shared: false, grace: 0, ipv6: false, ports: &[None], sampled: false };
    [
        PLAIN,
        Kind { name: "grace", grace: 60, ..PLAIN },
        Kind { name: "shared", shared: true, ..PLAIN },
        Kind { name: "shared-grace", shared: true, grace: 90, ports: &[None, None], ..PLAIN },
        Kind { name: "ipv6", ipv6: true, ..PLAIN },
        Kind { name: "ports", ports: &[None, Some(6432)], ..PLAIN },
        Kind { name: "sampled", grace: 120, sampled: true, ..PLAIN },
    ]
};

const OWN_PORT: u16 = 5432;

/// A hostname and what DNS says to it.
#[derive(Clone)]
struct Host {
    name: String,
    port: u16,
    ipv6: bool,
    sampled: bool,
    /// What DNS gives at times and may not be registered.
    refused: &'static [&'static str],
    /// Whether its replies may come late or not at all.
    is_patient: bool,
    pool: Vec<IpAddr>,
    /// What it gives and may be registered.
    given: BTreeSet<IpAddr>,
    reply: Reply,
}

impl Host {
    /// Lets DNS give some addresses of the pool, and now and then one that may not be registered.
    fn resolve(&mut self, rng: &mut Rng) {
        rng.shuffle(&mut self.pool);
        let most = if self.sampled { 2 } else { self.pool.len() };
        self.given = self.pool.iter().copied().take(rng.usize(1..=most)).collect();
        let mut answer: Vec<_> = self.given.iter().copied().collect();
        rng.shuffle(&mut answer);
        self.reply = if self.sampled {
            // Each of them in turn, and at times one look that fails.
            let mut replies: Vec<_> = answer.into_iter().map(|address| Reply::Addresses(vec![address])).collect();
            if rng.u8(..4) == 0 {
                replies.insert(rng.usize(1..=replies.len()), Reply::ServFail);
            }
            Reply::sequence(replies)
        } else {
            if rng.u8(..5) == 0 {
                answer.push(self.refused(rng));
            }
            let reply = Reply::Addresses(answer);
            if self.is_patient && rng.u8(..10) == 0 { reply.delayed(Duration::from_millis(1200)) } else { reply }
        };
    }

    /// Lets it give nothing that may be registered.
    fn fail(&mut self, rng: &mut Rng) {
        self.given.clear();
        self.reply = match rng.u8(..if self.is_patient { 10 } else { 8 }) {
            0 => Reply::NxDomain { negative_ttl: Some(1) },
            1 => Reply::NoData { negative_ttl: None },
            2 => Reply::ServFail,
            3 => Reply::Refused,
            4 => Reply::Raw(hostile::garbage_with_id),
            5 => Reply::Raw(hostile::pointer_loop),
            6 => Reply::Addresses(vec![self.refused(rng)]),
            7 => Reply::Raw(hostile::cut_short),
            8 => Reply::Raw(hostile::wrong_id),
            _ => Reply::Silent,
        };
    }

    fn refused(&self, rng: &mut Rng) -> IpAddr {
        rng.choice(self.refused).unwrap().parse().unwrap()
    }

    fn tell(&self, world: &World) {
        let record_type = if self.ipv6 { RecordType::AAAA } else { RecordType::A };
        world.dns.set_reply(&self.name, record_type, self.reply.clone());
    }

    fn targets(&self) -> BTreeSet<String> {
        self.given.iter().map(|address| SocketAddr::new(*address, self.port).to_string()).collect()
    }
}

const REFUSED_V4: &[&str] = &["54.1.2.3", "169.254.169.254", "127.0.0.1", "0.0.0.0"];
const REFUSED_V6: &[&str] = &["fe80::1", "::1", "::ffff:10.0.1.1", "ff02::1"];

/// A target group, and what is true of it.
struct Group {
    arn: String,
    kind: &'static Kind,
    hosts: Vec<Host>,
    /// The tags of others.
    others: BTreeMap<String, String>,
    /// Whether what is ours may have been forgotten.
    lost_tags: bool,
    /// Whether a registration may be refused for want of room.
    full: bool,
    /// What binds it, where tags do.
    tags: Option<Binding>,
}

/// The tags of a group that bind it.
struct Binding {
    values: BTreeMap<String, String>,
    /// Whether they are there.
    is_bound: bool,
    /// Whether the execution environment has read them as they are.
    is_known: bool,
}

impl Group {
    /// The binding of its hostnames by tags, which have one port for all.
    fn tags_of(kind: &Kind, hostnames: &[String]) -> Option<Binding> {
        if kind.ports.iter().any(Option::is_some) {
            return None;
        }
        let values = [
            ("hostname", hostnames.join(" ")),
            ("ownership", if kind.shared { "shared" } else { "exclusive" }.to_owned()),
            ("deregister-after-seconds", kind.grace.to_string()),
            ("lookups", if kind.sampled { "2" } else { "1" }.to_owned()),
        ];
        let values = values.map(|(name, value)| (format!("{PREFIX}{name}"), value)).into();
        Some(Binding { values, is_bound: false, is_known: false })
    }

    /// Whether a run is sure to look at it.
    fn is_followed(&self) -> bool {
        self.tags.as_ref().is_none_or(|tags| tags.is_bound && tags.is_known)
    }

    /// Whether a run is sure to leave it as it is.
    fn is_left_alone(&self) -> bool {
        self.tags.as_ref().is_some_and(|tags| !tags.is_bound && tags.is_known)
    }

    /// Puts the tags there that bind it, or takes them away.
    fn bind(&mut self, world: &World, is_bound: bool) {
        if let Some(tags) = self.tags.as_mut().filter(|tags| tags.is_bound != is_bound) {
            for (key, value) in &tags.values {
                if is_bound {
                    world.aws.set_tag(&self.arn, key, value);
                } else {
                    world.aws.remove_tag(&self.arn, key);
                }
            }
            (tags.is_bound, tags.is_known) = (is_bound, false);
        }
    }

    fn given(&self) -> BTreeSet<String> {
        self.hosts.iter().flat_map(Host::targets).collect()
    }

    /// The names that give nothing that may be registered.
    fn useless(&self) -> BTreeSet<String> {
        self.hosts.iter().filter(|host| host.given.is_empty()).map(|host| host.name.clone()).collect()
    }

    /// Those of them that give nothing at all.
    fn unresolved(&self) -> BTreeSet<String> {
        let gives = |host: &&Host| matches!(&host.reply, Reply::Addresses(_));
        self.hosts.iter().filter(|host| host.given.is_empty() && !gives(host)).map(|host| host.name.clone()).collect()
    }

    fn foreign(&self) -> BTreeSet<String> {
        let port = OWN_PORT;
        (200..203).map(|last| SocketAddr::new(address(self.kind.ipv6, 9, last), port).to_string()).collect()
    }
}

fn address(ipv6: bool, net: u8, last: u8) -> IpAddr {
    if ipv6 {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, net.into(), last.into()).into()
    } else {
        Ipv4Addr::new(10, 0, net, last).into()
    }
}

/// How a run goes.
#[derive(Clone, Copy, Debug)]
enum Manner {
    Cold,
    DryRun,
    /// Killed after so many calls, and whether the next one is carried out; the function lives on or not.
    Killed {
        calls: u32,
        carried_out: bool,
        lives_on: bool,
    },
    /// Something hangs, and the deadline is near.
    Short,
    Warm,
    Watch {
        seconds: u16,
    },
}

struct Episode {
    rng: Rng,
    world: World,
    groups: Vec<Group>,
    function: Rc<Function>,
    deadline: Duration,
    is_patient: bool,
    /// How late reads show what was written.
    lag: Duration,
    /// How long a new target is `initial`.
    initial_for: Duration,
    /// Whether a call that failed is repeated.
    has_retries: bool,
    /// Whether groups are bound by their tags.
    discovers: bool,
    /// What was done to this episode's world, and how the runs went.
    story: Vec<String>,
    /// Where in the story the present step begins.
    step_began: usize,
}

/// A rule that was broken.
pub(crate) struct Broken {
    seed: u64,
    story: Vec<String>,
    calls: Vec<Call>,
    rules: Vec<String>,
}

impl fmt::Display for Broken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "WRONG: `SEED={} make soak` repeats it; its last steps:", self.seed)?;
        let last = self.story.len().saturating_sub(100);
        self.story[last..].iter().try_for_each(|line| writeln!(formatter, "  {line}"))?;
        for call in &self.calls {
            let arn = call.arn.as_deref().and_then(|arn| arn.split('/').nth(1)).unwrap_or_default();
            let targets: Vec<_> = call.targets.iter().map(|target| &target.id).collect();
            writeln!(formatter, "    {} {arn} {targets:?}: {}", call.action, call.status)?;
        }
        self.rules.iter().try_for_each(|rule| writeln!(formatter, "  {rule}"))
    }
}

/// What DNS gives while a run lasts, of one group.
struct During {
    always: BTreeSet<String>,
    ever: BTreeSet<String>,
    /// The hostnames that resolve at no time, and those that give nothing usable. Of two that take turns, a slow run may see
    /// both resolve.
    unresolved: BTreeSet<String>,
    useless: BTreeSet<String>,
    is_steady: bool,
    /// What was registered before.
    registered: BTreeSet<String>,
}

impl Episode {
    async fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let world = World::new().await;
        // They are judged after each run, but for one that is cut off when the time is over.
        world.aws.tolerate(EVERYTHING);
        world.dns.set_ttl(1);
        let is_patient = is_patient(seed);
        let discovers = rng.u8(..3) == 0;
        let lag = Duration::from_millis(if is_patient { rng.choice([0, 0, 300, 900]).unwrap() } else { 0 });
        let initial_for = if rng.u8(..3) == 0 { Duration::from_secs(3600) } else { Duration::ZERO };
        let mut kinds: Vec<_> = KINDS.iter().collect();
        rng.shuffle(&mut kinds);
        let mut groups = Vec::new();
        let mut bindings = Vec::new();
        // Names that give samples take their time.
        for (kind, number) in kinds.into_iter().filter(|kind| !kind.sampled || is_patient).take(3).zip(1_u8..) {
            let arn = world.aws.create_target_group(TargetGroup {
                ipv6: kind.ipv6,
                port: OWN_PORT,
                initial_for,
                target_lag: lag,
                tag_lag: lag,
                listing_lag: lag,
                ..TargetGroup::new(kind.name)
            });
            let others = [("team", "data"), ("Name", kind.name)].map(|(key, value)| (key.to_owned(), value.to_owned()));
            others.iter().for_each(|(key, value)| world.aws.set_tag(&arn, key, value));
            let hostnames: Vec<_> = (1..=kind.ports.len()).map(|host| format!("{}-{host}.test", kind.name)).collect();
            let tags = Group::tags_of(kind, &hostnames).filter(|_| discovers);
            let hosts = kind.ports.iter().zip(1..).map(|(port, host)| {
                let pool = (1..=5).map(|last| address(kind.ipv6, number, host * 10 + last)).collect();
                let name = hostnames[usize::from(host) - 1].clone();
                let mut binding = json!({"hostname": name, "target_group_arn": arn});
                let mut set =
                    |field: &str, value: Value| drop(binding.as_object_mut().unwrap().insert(field.into(), value));
                port.iter().for_each(|port| set("port", (*port).into()));
                set("ownership", if kind.shared { "shared" } else { "exclusive" }.into());
                set("deregister_after_seconds", kind.grace.into());
                set("lookups", if kind.sampled { 2 } else { 1 }.into());
                if tags.is_none() {
                    bindings.push(binding);
                }
                Host {
                    name,
                    port: port.unwrap_or(OWN_PORT),
                    ipv6: kind.ipv6,
                    sampled: kind.sampled,
                    refused: if kind.ipv6 { REFUSED_V6 } else { REFUSED_V4 },
                    is_patient,
                    pool,
                    given: BTreeSet::new(),
                    reply: Reply::ServFail,
                }
            });
            let hosts: Vec<_> = hosts.collect();
            groups.push(Group { arn, kind, hosts, others: others.into(), lost_tags: false, full: false, tags });
        }
        groups.iter_mut().for_each(|group| group.bind(&world, true));
        let has_retries = rng.u8(..4) == 0;
        let world = world
            .set("BINDINGS", if bindings.is_empty() { String::new() } else { Value::from(bindings).to_string() })
            .set("DISCOVERY", if discovers { "tags" } else { "off" })
            .set("AWS_MAX_ATTEMPTS", if has_retries { 2 } else { 1 })
            .set("ELB_REQUESTS_PER_SECOND", 0);
        let function = Rc::new(world.function().await);
        // Answers are then collected at short intervals.
        let has_samples = groups.iter().any(|group| group.kind.sampled);
        let deadline = if has_samples { Duration::from_millis(1500) } else { LONG };
        Self {
            rng,
            world,
            groups,
            function,
            deadline,
            is_patient,
            lag,
            initial_for,
            has_retries,
            discovers,
            story: Vec::new(),
            step_began: 0,
        }
    }

    /// Of ELBv2, of CloudWatch, or that finds target groups.
    fn action(&mut self) -> &'static str {
        let listing: &[_] = if self.discovers { &["GetResources", "GetResources"] } else { &[] };
        self.rng.choice([&ACTIONS[..], &["PutMetricData"], listing].concat()).unwrap()
    }

    fn one_in(&mut self, chances: u8) -> bool {
        self.rng.u8(..chances) == 0
    }

    fn tell(&mut self, what: impl fmt::Display) {
        self.story.push(what.to_string());
    }

    /// Whether this step strikes calls of this action in a way that holds these words.
    fn strikes(&self, action: &str, words: &str) -> bool {
        let mut faults = self.story[self.step_began..].iter().filter(|line| line.starts_with("Fault"));
        faults.any(|line| line.contains(words) && (line.contains(action) || line.contains("action: None")))
    }

    /// Some names give something else, and some fail.
    fn change_dns(&mut self, chances: u8) {
        for group in &mut self.groups {
            for host in &mut group.hosts {
                match self.rng.u8(..chances) {
                    0..=2 => host.resolve(&mut self.rng),
                    3 => host.fail(&mut self.rng),
                    _ => continue,
                }
                self.story.push(format!("{} gives {:?} by {:?}", host.name, host.given, host.reply));
                host.tell(&self.world);
            }
        }
    }

    /// Somebody else changes targets, tags and quotas.
    fn change_by_hand(&mut self) {
        let Self { rng, world, groups, story, .. } = self;
        let aws = &world.aws;
        for group in groups {
            let arn = &group.arn;
            let registered: Vec<_> = aws.registered(arn).into_iter().collect();
            let one = rng.choice(&registered).cloned();
            let is_binding = |key: &String| group.tags.as_ref().is_some_and(|tags| tags.values.contains_key(key));
            let tags: Vec<_> = aws.tags(arn).into_keys().filter(|key| !is_binding(key)).collect();
            match (rng.u8(..20), one) {
                (0, _) => {
                    let target = rng.choice(group.foreign()).unwrap();
                    aws.add_target(arn, &target, "healthy");
                    story.push(format!("{target} is added to {} by hand", group.kind.name));
                }
                (1, Some(target)) => {
                    aws.remove_target(arn, &target);
                    story.push(format!("{target} is removed from {} by hand", group.kind.name));
                }
                (2, Some(target)) => {
                    let states = ["healthy", "unhealthy", "unused", "initial", "unhealthy.draining", "unavailable"];
                    let state = rng.choice(states).unwrap();
                    aws.set_state(arn, &target, state);
                    story.push(format!("{target} of {} is {state}", group.kind.name));
                }
                (3 | 4, _) => aws.finish_draining(arn),
                (5 | 12, _) if !tags.is_empty() => {
                    // One of them, or all that are ours.
                    let (one, is_all) = (rng.choice(&tags).unwrap(), rng.bool());
                    let is_lost = |key: &&String| *key == one || (is_all && key.starts_with(PREFIX));
                    for key in tags.iter().filter(is_lost) {
                        aws.remove_tag(arn, key);
                        if group.others.remove(key).is_none() {
                            group.lost_tags = true;
                        }
                        story.push(format!("{key} of {} is lost", group.kind.name));
                    }
                }
                (6, _) => {
                    let value = rng.choice(["data", "platform"]).unwrap();
                    aws.set_tag(arn, "team", value);
                    group.others.insert("team".to_owned(), value.to_owned());
                }
                (7, _) => {
                    let quota = registered.len().max(1);
                    aws.reconfigure(arn, |group| (group.quota, group.draining_counts) = (quota, true));
                    group.full = true;
                    story.push(format!("{} takes {quota} targets", group.kind.name));
                }
                (8 | 9, _) => {
                    aws.reconfigure(arn, |group| group.quota = 1000);
                    group.full = false;
                }
                (10 | 11, _) => {
                    if let Some(is_bound) = group.tags.as_ref().map(|tags| tags.is_bound) {
                        group.bind(world, !is_bound);
                        story.push(format!("{} is bound by its tags: {}", group.kind.name, !is_bound));
                    }
                }
                _ => {}
            }
        }
    }

    /// Lets something go wrong with AWS.
    fn strike(&mut self) {
        for _ in 0..self.rng.u8(..3) {
            let action = self.action();
            // What takes long has a deadline of its own, and whose group is deleted never comes back.
            let kinds: Vec<_> = ELB.iter().filter(|fault| !fault.waits && fault.name != DELETED).collect();
            let kind = (self.rng.choice(&kinds).unwrap().kind)();
            let mut fault = if self.one_in(8) { Fault::any(kind) } else { Fault::on(action, kind) };
            fault = fault.after(self.rng.u32(..3)).times(self.rng.u32(1..4));
            if self.rng.bool() {
                fault = fault.arn(&self.rng.choice(&self.groups).unwrap().arn);
            }
            self.tell(format_args!("{fault:?}"));
            self.world.aws.fault(fault);
        }
    }

    fn manner(&mut self) -> Manner {
        match self.rng.u8(..20) {
            0..=2 => Manner::Cold,
            3 => Manner::DryRun,
            4..=8 => {
                Manner::Killed { calls: self.rng.u32(..20), carried_out: self.rng.bool(), lives_on: self.rng.bool() }
            }
            11 if self.one_in(4) => Manner::Short,
            12..=17 if self.is_patient => Manner::Watch { seconds: self.rng.u16(1..3) },
            _ => Manner::Warm,
        }
    }

    /// A change of the world, and a run.
    async fn step(&mut self) -> Vec<String> {
        self.step_began = self.story.len();
        advance(self.rng.i64(0..40));
        self.change_by_hand();
        // Two runs are further apart than reads lag; of what lags within one, the watches tell.
        sleep(self.lag).await;
        self.change_dns(12);
        let manner = self.manner();
        self.tell(format_args!("run: {manner:?}"));
        if let Manner::Killed { calls, carried_out, .. } = manner {
            let kind = if carried_out { FaultKind::LoseReply } else { FaultKind::Hang };
            self.world.aws.fault(Fault::any(kind).after(calls).times(1));
        }
        if let Manner::Short = manner {
            let action = self.action();
            self.world.aws.fault(Fault::on(action, FaultKind::Hang));
        }
        self.strike();
        // At times DNS changes while the run is under way.
        let flips = matches!(manner, Manner::Watch { .. }) || self.one_in(5);
        self.run(manner, flips).await
    }

    async fn run(&mut self, manner: Manner, flips: bool) -> Vec<String> {
        let before = |group: &Group| During {
            always: group.given(),
            ever: group.given(),
            unresolved: group.unresolved(),
            useless: group.useless(),
            is_steady: true,
            registered: self.world.aws.registered(&group.arn),
        };
        let mut during: Vec<_> = self.groups.iter().map(before).collect();
        if matches!(manner, Manner::Cold) {
            self.begin().await;
        }
        self.world.aws.clear_calls();
        let deadline = match manner {
            Manner::Short => Duration::from_millis(600),
            Manner::Watch { .. } => LONG,
            _ => self.deadline,
        };
        let event = match manner {
            Manner::DryRun => json!({"dry_run": true}),
            Manner::Watch { seconds } => json!({"watch_seconds": seconds}),
            _ => json!({}),
        };
        let function = Rc::clone(&self.function);
        // From the first sample on.
        for host in self.groups.iter().flat_map(|group| &group.hosts).filter(|host| host.sampled) {
            host.tell(&self.world);
        }
        let aws = self.world.aws.clone();
        let watched = match manner {
            Manner::Watch { seconds } => u64::from(seconds) * 1000,
            _ => 0,
        };
        let flip_after = Duration::from_millis(self.rng.u64(..watched.saturating_sub(200).max(40)));
        let flipping = async {
            if flips {
                sleep(flip_after).await;
                self.change_dns(6);
            }
        };
        let running = invoke_within(&function, event, deadline);
        let is_killed = matches!(manner, Manner::Killed { .. });
        let running = async {
            select! {
                result = running => Some(result),
                () = aws.left_hanging(), if is_killed => None,
                () = sleep(deadline + LONG) => panic!("rule 10: no reply"),
            }
        };
        let (result, ()) = join!(running, flipping);
        // What was given up may arrive all the same.
        if !matches!(result, Some(Ok(_))) {
            aws.settled().await;
        }
        let outcome = match &result {
            None => "killed".to_owned(),
            Some(Ok(_)) => "ok".to_owned(),
            Some(Err(error)) => error.to_string(),
        };
        self.tell(format_args!("  {outcome}"));

        for (group, during) in self.groups.iter().zip(&mut during) {
            let (given, useless) = (group.given(), group.useless());
            during.is_steady = given == during.always && useless == during.useless;
            during.always = &during.always & &given;
            during.ever = &during.ever | &given;
            during.unresolved = &during.unresolved & &group.unresolved();
            during.useless = &during.useless & &useless;
        }
        let broken = self.judge(manner, &during, result.as_ref());
        self.learn(result.as_ref());
        if matches!(manner, Manner::Killed { lives_on: false, .. }) {
            self.begin().await;
        }
        self.world.aws.clear_faults();
        broken
    }

    /// A new execution environment.
    async fn begin(&mut self) {
        self.function = Rc::new(self.world.function().await);
        self.groups.iter_mut().flat_map(|group| &mut group.tags).for_each(|tags| tags.is_known = false);
    }

    /// Notes what a run has learned of the tags.
    fn learn(&mut self, result: Option<&Result<Value, RunError>>) {
        // Whose group there is not, as AWS says, forgets it.
        let forgets = self.strikes("", "TargetGroupNotFound");
        let listed = self.world.aws.calls_of("GetResources").iter().any(|call| call.status == 200);
        let learns = listed
            && match result {
                Some(Err(error)) => !error.to_string().contains(UNDISCOVERED),
                result => result.is_some(),
            };
        for tags in self.groups.iter_mut().flat_map(|group| &mut group.tags) {
            tags.is_known = (tags.is_known || learns) && !forgets;
        }
    }

    /// Which rules a run has broken.
    fn judge(&mut self, manner: Manner, during: &[During], result: Option<&Result<Value, RunError>>) -> Vec<String> {
        let mut broken = Vec::new();
        let calls = self.world.aws.calls();
        let forgets = self.strikes("", "TargetGroupNotFound");
        // Then what DNS gives is registered all the same.
        let has_lost_state = ["DescribeTags", "AddTags", "RemoveTags"].iter().any(|action| self.strikes(action, ""));
        let may_refuse = ["InvalidTarget", "TooManyRegistrations", "RefuseTarget"]
            .iter()
            .any(|code| self.strikes("RegisterTargets", code));
        let strikes_quota = self.strikes("RegisterTargets", "TooManyTargets");
        // By the SDK; or by a watch that does not see yet what was done, of which it has no reply.
        let may_repeat = (self.has_retries || !self.lag.is_zero()) && self.strikes("DeregisterTargets", "ResetAfter");
        let message = match result {
            Some(Err(error)) => error.to_string(),
            _ => String::new(),
        };
        if matches!(manner, Manner::DryRun) {
            let reads = ["Describe", "Get"];
            let writes = calls.iter().filter(|call| !reads.iter().any(|read| call.action.starts_with(read)));
            broken.extend(writes.map(|call| format!("a dry run calls {}", call.action)));
        }
        for (group, during) in self.groups.iter_mut().zip(during) {
            let (arn, kind) = (&group.arn.clone(), group.kind);
            let registered = self.world.aws.registered(arn);
            let untouchable = if kind.shared { group.foreign() } else { BTreeSet::new() };
            // What was registered all the same may be nobody's when DNS gives it no more.
            group.lost_tags |= has_lost_state;
            let truth = Truth {
                arn,
                given: during.always.clone(),
                acceptable: during.ever.clone(),
                untouchable,
                unresolved: !during.unresolved.is_empty(),
                shared: kind.shared && !has_lost_state,
                full: group.full || strikes_quota,
                refused: may_refuse,
            };
            let mut rule = |holds: bool, what: fmt::Arguments<'_>| {
                if !holds {
                    broken.push(format!("{}: {what}", kind.name));
                }
            };
            for what in truth.broken_by(&calls) {
                rule(false, format_args!("{what}"));
            }
            let emptied = !during.registered.is_empty() && registered.is_empty();
            rule(!emptied, format_args!("the group was emptied"));
            let present = self.world.aws.tags(arn);
            let others = present.clone().into_iter().filter(|(key, _)| !key.starts_with(PREFIX)).collect();
            rule(group.others == others, format_args!("the tags of others were {:?} and are {others:?}", group.others));
            if let Some(Binding { values, is_bound: true, .. }) = &group.tags {
                let is_there = values.iter().all(|(key, value)| present.get(key) == Some(value));
                rule(is_there, format_args!("tags that bind it were changed: {present:?}"));
            }
            if group.is_left_alone() {
                let is_write = |call: &&Call| call.arn.as_ref() == Some(arn) && !call.action.starts_with("Describe");
                let writes: Vec<_> = calls.iter().filter(is_write).map(|call| &call.action).collect();
                rule(writes.is_empty(), format_args!("it is not bound any more, and {writes:?} was called"));
            }
            let is_followed = group.is_followed() && !(forgets && group.tags.is_some());

            let outcomes = result.and_then(|result| result.as_ref().ok()).and_then(|reply| reply["groups"].as_array());
            let of_group = |report: &&Value| report["target_group_arn"] == arn.as_str();
            let outcome = outcomes.and_then(|reports| reports.iter().find(of_group)).map(|report| &report["outcome"]);
            if outcomes.is_some() && is_followed && outcome.is_none() {
                broken.push(format!("{}: it is bound, and not in the reply", kind.name));
            }
            if outcome.is_some_and(|outcome| outcome == "deferred") {
                broken.push(format!("{}: it is put off, and there is no budget", kind.name));
            }
            // Whether the run says that all is well with the group.
            let is_well = match result {
                _ if matches!(manner, Manner::DryRun) || !is_followed => false,
                Some(Ok(_)) => true,
                Some(Err(_)) => {
                    let is_of_groups = message.contains("target groups failed") || message.contains(UNDISCOVERED);
                    !message.contains(arn.as_str()) && is_of_groups
                }
                None => false,
            };
            let mut rule = |holds: bool, what: fmt::Arguments<'_>| {
                if !holds {
                    broken.push(format!("{}: {what}", kind.name));
                }
            };
            if is_well {
                rule(
                    during.useless.is_empty(),
                    format_args!("{:?} gives nothing, which goes unnoticed", during.useless),
                );
            }
            // Not every address of a sampled name was in an answer of this run.
            if is_well && during.is_steady && !kind.sampled {
                let lacks = &during.always - &registered;
                rule(lacks.is_empty(), format_args!("nobody says that {lacks:?} is not registered"));
            }
        }
        for violation in self.world.aws.take_violations() {
            if !(violation.contains(TWICE) && may_repeat) {
                broken.push(violation);
            }
        }
        broken
    }

    /// All is well again: one run brings what is missing, and takes away what is stale, at once or when its grace is
    /// over.
    async fn calm(&mut self) -> Vec<String> {
        self.step_began = self.story.len();
        self.tell("calm");
        if self.discovers {
            // The tags are looked at again.
            advance(61);
        }
        for group in &mut self.groups {
            group.bind(&self.world, true);
            for host in &mut group.hosts {
                host.resolve(&mut self.rng);
                // No look of it fails.
                if host.sampled {
                    let replies = host.given.iter().map(|address| Reply::Addresses(vec![*address])).collect::<Vec<_>>();
                    host.reply = Reply::sequence(replies);
                }
                self.story.push(format!("{} gives {:?}", host.name, host.given));
                host.tell(&self.world);
            }
            let settle = |spec: &mut TargetGroup| (spec.quota, spec.initial_for) = (1000, Duration::ZERO);
            self.world.aws.reconfigure(&group.arn, settle);
            group.full = false;
            for (target, _) in self.world.aws.targets(&group.arn).iter().filter(|(_, state)| *state == "initial") {
                self.world.aws.set_state(&group.arn, target, "healthy");
            }
        }
        sleep(self.lag).await;
        let deadline = mem::replace(&mut self.deadline, LONG);
        let manner = if self.rng.bool() { Manner::Warm } else { Manner::Cold };
        let mut broken = self.run(manner, false).await;
        let registered = |group: &Group| self.world.aws.registered(&group.arn);
        for group in &self.groups {
            if !registered(group).is_superset(&group.given()) {
                broken.push(format!("{} does not converge: {:?}", group.kind.name, registered(group)));
            }
        }
        let longest = self.groups.iter().map(|group| group.kind.grace).max().unwrap_or_default();
        if longest > 0 && broken.is_empty() {
            advance(i64::from(longest) + 1);
            sleep(self.lag).await;
            broken.extend(self.run(Manner::Warm, false).await);
        }
        self.deadline = deadline;
        for group in &mut self.groups {
            let registered = self.world.aws.registered(&group.arn);
            let surplus: BTreeSet<_> = registered.difference(&group.given()).cloned().collect();
            let orphans: BTreeSet<_> =
                if group.kind.shared { surplus.difference(&group.foreign()).cloned().collect() } else { surplus };
            if !(orphans.is_empty() || group.kind.sampled || (group.kind.shared && group.lost_tags)) {
                broken.push(format!("{} keeps {orphans:?}", group.kind.name));
            }
            // Whose tag was lost, somebody has to take away.
            for target in orphans {
                self.world.aws.remove_target(&group.arn, &target);
            }
            group.lost_tags = false;
            self.world.aws.reconfigure(&group.arn, |spec| spec.initial_for = self.initial_for);
        }
        broken
    }
}

/// Whether the episode of this seed spends its time waiting.
fn is_patient(seed: u64) -> bool {
    seed.is_multiple_of(4)
}

/// Runs an episode until it ends or `is_over` says so, and counts its runs.
async fn episode(seed: u64, runs: &AtomicU64, is_over: impl Fn() -> bool) -> Result<(), Broken> {
    let mut episode = Episode::new(seed).await;
    for step in 1..=if is_patient(seed) { PATIENT_STEPS } else { STEPS } {
        // What a step does depends on the steps before it as little as can be, so that it can be repeated.
        episode.rng = Rng::with_seed(seed.wrapping_mul(1000).wrapping_add(step));
        let acting = async { if step % CALM_AFTER == 0 { episode.calm().await } else { episode.step().await } };
        let over = async {
            while !is_over() {
                sleep(Duration::from_millis(100)).await;
            }
        };
        let rules = select! {
            rules = acting => rules,
            () = over => break,
        };
        runs.fetch_add(1, Ordering::Relaxed);
        if !rules.is_empty() {
            return Err(Broken { seed, calls: episode.world.aws.calls(), story: episode.story, rules });
        }
    }
    Ok(())
}

/// What a run says that could not find target groups by their tags.
const UNDISCOVERED: &str = "could not be found by their tags";

/// Runs in an episode.
const STEPS: u64 = 120;

/// And in one that waits.
const PATIENT_STEPS: u64 = 36;

/// The deadline of a run that has time.
const LONG: Duration = Duration::from_secs(30);

/// From one time when all is well to the next.
const CALM_AFTER: u64 = 12;

/// Threads for episodes that wait, for each processor.
const PATIENT_THREADS: usize = 4;

/// Soaks from one seed on, on all processors, and prints what came of it. `false` where a rule was broken.
fn soak(first: u64, most_runs: u64, time: Duration) -> bool {
    let began = Instant::now();
    let (runs, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let next = [AtomicU64::new(first), AtomicU64::new(first)];
    let is_over =
        || failed.load(Ordering::Relaxed) || runs.load(Ordering::Relaxed) >= most_runs || began.elapsed() >= time;
    let work = |patient: bool| {
        let seeds = iter::repeat_with(|| next[usize::from(patient)].fetch_add(1, Ordering::Relaxed));
        for seed in seeds.filter(|seed| is_patient(*seed) == patient).take_while(|_| !is_over()) {
            if let Err(broken) = block_on(episode(seed, &runs, is_over)) {
                println!("{broken}");
                failed.store(true, Ordering::Relaxed);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| work(false));
            // Several that wait need less of a processor than one that does not.
            for _ in 0..PATIENT_THREADS {
                scope.spawn(|| work(true));
            }
        }
    });
    let runs = runs.into_inner();
    let last = next.into_iter().map(AtomicU64::into_inner).max().unwrap_or(first) - 1;
    println!("soak: {runs} runs, of the seeds {first} to {last}, in {:.0?}", began.elapsed());
    !failed.into_inner()
}

/// Soaks as the environment says: from `SEED`, or else a seed that always is the same and then a fresh one.
pub(crate) fn holds() -> bool {
    let number = |name: &str| env::var(name).ok().filter(|text| !text.is_empty()).map(|text| text.parse().unwrap());
    let (runs, minutes): (Option<u64>, Option<u64>) = (number("RUNS"), number("MINUTES"));
    let time = match minutes {
        Some(minutes) => Duration::from_secs(60 * minutes),
        None if runs.is_some() => Duration::MAX,
        None => SHORT,
    };
    let soak = |seed| soak(seed, runs.unwrap_or(u64::MAX), time);
    let fresh = || fastrand::u64(..1_000_000_000);
    match number("SEED") {
        Some(seed) => soak(seed),
        None if time == SHORT => soak(1) && soak(fresh()),
        None => soak(fresh()),
    }
}

/// Of each of the two in `make test`.
const SHORT: Duration = Duration::from_secs(5);
