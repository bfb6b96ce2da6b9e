//! The product's own runs and watches in a time of their own, without sockets: what [`Run::next`] asks for is carried out
//! on a [`World`] that answers at once, or as late as it likes. Nothing is decided here.
//!
//! A run is a future. Whoever polls it decides when it goes on: [`alone`] at once, the histories when it is its turn.
//! It stops before each request and again before the result is handed back, so a future that is dropped is a process
//! that was killed, perhaps between a change and its reply.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    future::poll_fn,
    mem,
    net::{IpAddr, SocketAddr},
    pin::pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use nlb_hostname_targets::{
    binding::Group,
    failure::{DnsFailure, ElbError, ElbErrorKind, Failure, ResolveError},
    hostname::Hostname,
    memory::Memory,
    network::AllowedNetworks,
    report::GroupReport,
    resolution::{Answer, Answers, Resolution},
    run::{BATCH, Mode, Now, Run, Step, Task},
    tags::{MOST_TAGS, Tags, takes_room},
    target::{Facts, RegisteredTarget, Target, TargetState},
    watch::{Schedule, Watch},
};
use tokio::sync::mpsc::unbounded_channel;

/// What surrounds a run: the time, DNS and ELBv2. A reply that is `None` never comes.
pub trait World {
    fn now(&self) -> Now;

    /// Whoever acts has nothing to do until then: for one who is alone, the time passes.
    fn wait(&mut self, until: Instant);

    /// What the name servers say, asked once.
    fn ask(&mut self, hostname: &Hostname) -> Option<Result<Answer, ResolveError>>;

    fn facts(&mut self) -> Option<Result<Facts, ElbError>>;

    fn list(&mut self) -> Option<Result<Vec<RegisteredTarget>, ElbError>>;

    fn tags(&mut self) -> Option<Result<Tags, ElbError>>;

    fn add_tags(&mut self, tags: &Tags) -> Option<Result<(), ElbError>>;

    fn remove_tags(&mut self, keys: &[String]) -> Option<Result<(), ElbError>>;

    fn register(&mut self, targets: &BTreeSet<Target>) -> Option<Changed>;

    fn deregister(&mut self, targets: &BTreeSet<RegisteredTarget>) -> Option<Changed>;

    /// In which order what goes out together first comes to pass.
    fn order(&mut self) -> [Read; 3] {
        [Read::Dns, Read::Targets, Read::Tags]
    }

    /// Watches what the runs see and do.
    fn observe(&mut self, _event: Event<'_>) {}
}

/// What a run, or a watch, sees or does.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A run begins; a watch looked at DNS before.
    Began {
        order: &'a Order<'a>,
        early: Option<&'a Resolution>,
    },
    /// A run decided to do this now, and has all that it takes.
    Decided(&'a Step),
    /// A run got answers.
    Answered(&'a Answers),
    /// A watch looked at DNS; no run takes the answers up.
    Looked(&'a Answers),
    /// A run got the targets, which it asked for at that time.
    Listed(&'a Result<Vec<RegisteredTarget>, ElbError>, Instant),
    TagsRead(&'a Result<Tags, ElbError>),
    Registered(&'a Changed),
    Deregistered(&'a Changed),
    Ended(&'a GroupReport),
}

/// One of the first reads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Read {
    Dns,
    Tags,
    Targets,
}

/// What came of a change of targets.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Changed {
    pub accepted: Vec<Target>,
    /// For good.
    pub refused: BTreeMap<Target, String>,
    /// What else went wrong; what is neither accepted nor refused was not done, or nobody knows.
    pub failed: Option<ElbError>,
}

/// An execution environment, as far as one target group goes. To lose it is to begin with a new one.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The name of the function.
    pub function: String,
    pub memory: Memory,
    pub facts: Option<Facts>,
}

/// What to reconcile, and how.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    pub group: &'a Group,
    pub allowed: &'a AllowedNetworks,
    pub mode: Mode,
    /// Of which the keys of tags are made: another one for each run.
    pub nonce: u32,
    pub cutoff: Instant,
}

impl Environment {
    pub fn new(function: &str) -> Self {
        Self { function: function.to_owned(), memory: Memory::default(), facts: None }
    }

    /// Reconciles a target group. `early` is what DNS said before.
    pub async fn reconcile<W: World>(
        &mut self,
        world: &RefCell<W>,
        order: Order<'_>,
        early: Option<Resolution>,
    ) -> GroupReport {
        let Order { group, allowed, mode, nonce, cutoff } = order;
        let now = world.borrow().now();
        let facts = self.facts;
        let task = Task { group, allowed, function: &self.function, mode, facts, nonce, cutoff };
        world.borrow_mut().observe(Event::Began { order: &order, early: early.as_ref() });
        let mut run = Run::new(task, &mut self.memory, early, now);
        let mut steps = Steps { world, cutoff, facts: &mut self.facts };
        if let Err(TimeIsOver { waiting_for }) = steps.reconcile(&mut run).await {
            run.cut_off(waiting_for);
        }
        let report = run.finish();
        world.borrow_mut().observe(Event::Ended(&report));
        report
    }
}

/// How to watch.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub interval: Duration,
    pub heeds_ttl: bool,
    pub ends_when_stable: bool,
    pub until: Instant,
}

impl Environment {
    /// Goes on after a run, as [`Watch::follow`] does, without its metrics.
    pub async fn watch<W: World>(
        &mut self,
        world: &RefCell<W>,
        order: Order<'_>,
        pace: Pace,
        mut report: GroupReport,
    ) -> GroupReport {
        let Pace { interval, heeds_ttl, ends_when_stable, until } = pace;
        let order = Order { mode: Mode::Single, ..order };
        let now = || world.borrow().now();
        let (progress, _) = unbounded_channel();
        let watch = Watch { interval, heeds_ttl, ends_when_stable, began: now().at, until, progress };
        let mut schedule = Schedule::new(&watch, &self.memory, &report, now());
        while let Some(next) = schedule.next() {
            sleep_until(world, next.min(until)).await;
            if next >= until {
                break;
            }
            let mut early = None;
            let mut is_due = schedule.retries(now().at);
            if let Some(facts) = self.facts {
                let asked_at = now().at;
                let steps = Steps { world, cutoff: until, facts: &mut self.facts };
                let hostnames = order.group.hostnames().into_iter().cloned().collect();
                let Ok(answers) = steps.resolve(&hostnames, until).await else { break };
                let resolution = Resolution { answers, took: now().at - asked_at };
                let look = resolution.look(order.group, facts, order.allowed);
                is_due = schedule.note(&look, &resolution, &self.memory, now());
                if !is_due {
                    world.borrow_mut().observe(Event::Looked(&resolution.answers));
                    self.memory.take_in(&resolution, &look.desired, now().time, now().at);
                }
                early = Some(resolution);
            }
            if is_due {
                schedule.begin_run(now().at);
                pause().await;
                let later = self.reconcile(world, order, early).await;
                schedule.reconciled(&later, &self.memory, now());
                report = report.merged(later);
            }
        }
        let last = self.reconcile(world, order, None).await;
        if last.failures.iter().any(Failure::is_out_of_time) {
            report.with_changes_of(last)
        } else {
            report.merged(last)
        }
    }
}

/// Plays what nothing else goes on beside: it ends before this returns.
pub fn alone<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return output;
        }
    }
}

/// Lets others act.
pub async fn pause() {
    let mut has_paused = false;
    poll_fn(|_| if mem::replace(&mut has_paused, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// Lets others act until then.
pub async fn sleep_until<W: World>(world: &RefCell<W>, until: Instant) {
    poll_fn(|_| {
        let mut world = world.borrow_mut();
        if world.now().at >= until {
            return Poll::Ready(());
        }
        world.wait(until);
        Poll::Pending
    })
    .await;
}

/// The cut-off came while a run waited.
struct TimeIsOver {
    /// Empty where it waited for its turn.
    waiting_for: &'static str,
}

struct Steps<'a, W> {
    world: &'a RefCell<W>,
    cutoff: Instant,
    facts: &'a mut Option<Facts>,
}

impl<W: World> Steps<'_, W> {
    fn now(&self) -> Now {
        self.world.borrow().now()
    }

    async fn reconcile(&mut self, run: &mut Run<'_>) -> Result<(), TimeIsOver> {
        let mut spare_tags = None;
        if run.may_tidy() {
            self.pause("").await?;
            spare_tags = self.world.borrow_mut().tags();
        }
        self.carry_out(run).await?;
        if let Some(tags) = spare_tags {
            self.observe(Event::TagsRead(&tags));
            run.tidy(tags);
            self.carry_out(run).await?;
        }
        Ok(())
    }

    async fn carry_out(&mut self, run: &mut Run<'_>) -> Result<(), TimeIsOver> {
        let mut has_turn = false;
        loop {
            let step = run.next(self.now());
            if step.is_write() {
                assert_eq!(run.next(self.now()), step, "asked again, a run decides alike");
                if !mem::replace(&mut has_turn, true) {
                    self.pause("").await?;
                    continue;
                }
            }
            self.observe(Event::Decided(&step));
            has_turn = false;
            match step {
                Step::Done => return Ok(()),
                Step::Pause(pause) => self.sleep_until(self.now().at + pause, "").await?,
                Step::Read { facts, hostnames, until, tags } => {
                    self.read(run, facts, &hostnames, until, tags).await?;
                }
                Step::Resolve { hostnames, until, .. } => {
                    let answers = self.resolve(&hostnames, until).await?;
                    self.answered(run, answers);
                }
                Step::Reread { tags } => {
                    let asked_at = self.now().at;
                    let listed = self.call("DescribeTargetHealth", W::list).await?;
                    let tags = if tags { Some(self.call("DescribeTags", W::tags).await?) } else { None };
                    self.listed(run, listed, asked_at);
                    if let Some(tags) = tags {
                        self.tags_read(run, tags);
                    }
                }
                Step::ReadTags => {
                    let tags = self.call("DescribeTags", W::tags).await?;
                    self.tags_read(run, tags);
                }
                Step::AddTags(tags) => {
                    let result = self.call("AddTags", |world| world.add_tags(&tags)).await?;
                    run.tags_added(&tags, result);
                }
                Step::RemoveTags(keys) => {
                    let result = self.call("RemoveTags", |world| world.remove_tags(&keys)).await?;
                    run.tags_removed(&keys, result);
                }
                Step::Register(targets) => {
                    let changed = self.call("RegisterTargets", |world| world.register(&targets)).await?;
                    self.observe(Event::Registered(&changed));
                    if !changed.accepted.is_empty() {
                        run.registered_targets(&changed.accepted, self.now().at);
                    }
                    run.registration_ended(changed.refused, changed.failed);
                }
                Step::Deregister(targets) => {
                    let changed = self.call("DeregisterTargets", |world| world.deregister(&targets)).await?;
                    self.observe(Event::Deregistered(&changed));
                    if !changed.accepted.is_empty() {
                        run.deregistered_targets(&changed.accepted, self.now().at);
                    }
                    run.deregistration_ended(changed.refused, changed.failed);
                }
            }
        }
    }

    async fn read(
        &mut self,
        run: &mut Run<'_>,
        facts: bool,
        hostnames: &BTreeSet<Hostname>,
        until: Instant,
        tags: bool,
    ) -> Result<(), TimeIsOver> {
        let asked_at = self.now().at;
        let order = self.world.borrow_mut().order();
        let mut listed = None;
        let mut read = None;
        for part in order {
            match part {
                Read::Dns => {
                    let known = match *self.facts {
                        Some(known) if !facts => Ok(known),
                        _ => self.call("DescribeTargetGroups", W::facts).await?,
                    };
                    let asked_at = self.now().at;
                    let answers = match known {
                        Ok(known) => {
                            *self.facts = Some(known);
                            self.resolve(hostnames, until).await?
                        }
                        Err(_) => BTreeMap::new(),
                    };
                    run.learned(known);
                    if !answers.is_empty() {
                        self.answered(run, answers);
                        run.resolved_in(self.now().at - asked_at);
                    }
                }
                Read::Targets => listed = Some(self.call("DescribeTargetHealth", W::list).await?),
                Read::Tags if tags => read = Some(self.call("DescribeTags", W::tags).await?),
                Read::Tags => {}
            }
        }
        if let Some(listed) = listed {
            self.listed(run, listed, asked_at);
        }
        if let Some(read) = read {
            self.tags_read(run, read);
        }
        Ok(())
    }

    /// A name server that never replies is waited for as long as it may take.
    async fn resolve(&self, hostnames: &BTreeSet<Hostname>, until: Instant) -> Result<Answers, TimeIsOver> {
        let mut answers = BTreeMap::new();
        for hostname in hostnames {
            self.pause("DNS").await?;
            let asked_at = self.now().at;
            let answer = self.world.borrow_mut().ask(hostname);
            self.pause("DNS").await?;
            let answer = match answer {
                Some(answer) => answer,
                None => {
                    self.sleep_until(until, "DNS").await?;
                    Err(resolve_error(DnsFailure::OutOfTime(self.now().at - asked_at)))
                }
            };
            answers.insert(hostname.clone(), answer);
        }
        Ok(answers)
    }

    fn answered(&self, run: &mut Run<'_>, answers: Answers) {
        self.observe(Event::Answered(&answers));
        run.answered(answers, self.now());
    }

    fn listed(&self, run: &mut Run<'_>, listed: Result<Vec<RegisteredTarget>, ElbError>, asked_at: Instant) {
        self.observe(Event::Listed(&listed, asked_at));
        run.listed(listed, asked_at);
    }

    fn tags_read(&self, run: &mut Run<'_>, tags: Result<Tags, ElbError>) {
        self.observe(Event::TagsRead(&tags));
        run.tags_read(tags);
    }

    fn observe(&self, event: Event<'_>) {
        self.world.borrow_mut().observe(event);
    }

    /// Sends a request, and waits for the reply: others may act before either.
    async fn call<T>(
        &self,
        waiting_for: &'static str,
        request: impl FnOnce(&mut W) -> Option<T>,
    ) -> Result<T, TimeIsOver> {
        self.pause(waiting_for).await?;
        let reply = request(&mut self.world.borrow_mut());
        match reply {
            Some(reply) => {
                self.pause(waiting_for).await?;
                Ok(reply)
            }
            None => self.never(waiting_for).await,
        }
    }

    async fn pause(&self, waiting_for: &'static str) -> Result<(), TimeIsOver> {
        pause().await;
        self.sleep_until(self.now().at, waiting_for).await
    }

    async fn never<T>(&self, waiting_for: &'static str) -> Result<T, TimeIsOver> {
        sleep_until(self.world, self.cutoff).await;
        Err(TimeIsOver { waiting_for })
    }

    async fn sleep_until(&self, until: Instant, waiting_for: &'static str) -> Result<(), TimeIsOver> {
        sleep_until(self.world, until.min(self.cutoff)).await;
        if self.now().at >= self.cutoff { Err(TimeIsOver { waiting_for }) } else { Ok(()) }
    }
}

/// A target group as ELBv2 keeps it.
#[derive(Clone, Debug)]
pub struct TargetGroup {
    /// How many targets it may have at most. Draining ones do not count.
    pub quota: usize,
    /// How long a new target is `initial`, and how long one drains.
    pub initial_for: Duration,
    pub draining_for: Duration,
    /// Addresses that fail their health checks.
    pub dead: BTreeSet<IpAddr>,
    /// What AWS refuses to register, and to deregister.
    pub not_registrable: BTreeSet<IpAddr>,
    pub not_deregistrable: BTreeSet<IpAddr>,
    members: BTreeMap<Target, Member>,
    tags: Tags,
    /// What members and tags were before a change, and until when.
    before: Vec<(Instant, BTreeMap<Target, Member>, Tags)>,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    is_draining: bool,
    since: Instant,
}

impl Default for TargetGroup {
    fn default() -> Self {
        Self {
            quota: 1000,
            initial_for: Duration::from_secs(60),
            draining_for: Duration::from_secs(300),
            dead: BTreeSet::new(),
            not_registrable: BTreeSet::new(),
            not_deregistrable: BTreeSet::new(),
            members: BTreeMap::new(),
            tags: Tags::new(),
            before: Vec::new(),
        }
    }
}

impl TargetGroup {
    /// The targets, as a read tells that lags by `lag`.
    pub fn list(&self, now: Instant, lag: Duration) -> Vec<RegisteredTarget> {
        let at = now - lag;
        let listed = self.as_of(at).0.iter().filter_map(|(target, member)| {
            let state = self.state(target, *member, at)?;
            Some(RegisteredTarget { availability_zone: Some(ZONE.to_owned()), state, ..RegisteredTarget::new(*target) })
        });
        listed.collect()
    }

    /// The tags, as a read tells that lags by `lag`.
    pub fn tags(&self, now: Instant, lag: Duration) -> &Tags {
        self.as_of(now - lag).1
    }

    /// What is registered, which draining targets are not.
    pub fn registered(&self) -> BTreeSet<Target> {
        let registered = self.members.iter().filter(|(_, member)| !member.is_draining);
        registered.map(|(target, _)| *target).collect()
    }

    pub fn add_tags(&mut self, tags: &Tags, now: Instant) -> Result<(), ElbError> {
        assert!(
            !tags.is_empty() && !tags.keys().any(|key| key.starts_with("aws:")),
            "AWS takes no such tags: {tags:?}"
        );
        let is_plain = |c: char| c.is_alphanumeric() || " _.:/=+-@".contains(c);
        for (key, value) in tags {
            let is_short = (1..=127).contains(&key.chars().count()) && value.chars().count() <= 255;
            assert!(is_short && key.chars().chain(value.chars()).all(is_plain), "AWS takes no such tag: {key}={value}");
        }
        let mut all = self.tags.clone();
        all.extend(tags.clone());
        if all.keys().filter(|key| takes_room(key)).count() > MOST_TAGS {
            return Err(elb_error("AddTags", ElbErrorKind::Failed, "TooManyTags"));
        }
        *self.change(now).1 = all;
        Ok(())
    }

    pub fn remove_tags(&mut self, keys: &[String], now: Instant) {
        assert!(
            !keys.is_empty() && !keys.iter().any(|key| key.starts_with("aws:")),
            "AWS removes no such tags: {keys:?}"
        );
        self.change(now).1.retain(|key, _| !keys.contains(key));
    }

    /// Registers what is not refused, in order, until the quota is reached.
    pub fn register(&mut self, targets: impl IntoIterator<Item = Target>, now: Instant) -> Changed {
        let mut changed = Changed::default();
        let mut targets = targets.into_iter().peekable();
        assert!(targets.peek().is_some(), "AWS registers no empty list");
        let (quota, not_registrable) = (self.quota, self.not_registrable.clone());
        let (members, _) = self.change(now);
        for target in targets {
            let is_registered = members.get(&target).is_some_and(|member| !member.is_draining);
            if not_registrable.contains(&target.address) {
                changed.refused.insert(target, "InvalidTarget: no".to_owned());
                continue;
            }
            if !is_registered {
                if members.values().filter(|member| !member.is_draining).count() >= quota {
                    changed.failed =
                        Some(elb_error("RegisterTargets", ElbErrorKind::QuotaReached, "TooManyTargets: no more"));
                    break;
                }
                members.insert(target, Member { is_draining: false, since: now });
            }
            changed.accepted.push(target);
        }
        assert!(changed.accepted.len() + changed.refused.len() <= BATCH, "too many targets for one call");
        changed
    }

    /// Deregisters what is not refused. It succeeds, too, where there is no such target.
    pub fn deregister(&mut self, targets: impl IntoIterator<Item = Target>, now: Instant) -> Changed {
        let mut changed = Changed::default();
        let mut targets = targets.into_iter().peekable();
        assert!(targets.peek().is_some(), "AWS deregisters no empty list");
        let not_deregistrable = self.not_deregistrable.clone();
        let (members, _) = self.change(now);
        for target in targets {
            if not_deregistrable.contains(&target.address) {
                changed.refused.insert(target, "InvalidTarget: no".to_owned());
                continue;
            }
            if let Some(member) = members.get_mut(&target).filter(|member| !member.is_draining) {
                *member = Member { is_draining: true, since: now };
            }
            changed.accepted.push(target);
        }
        assert!(changed.accepted.len() + changed.refused.len() <= BATCH, "too many targets for one call");
        changed
    }

    /// No target drains any more.
    pub fn finish_draining(&mut self, now: Instant) {
        self.change(now).0.retain(|_, member| !member.is_draining);
    }

    fn state(&self, target: &Target, member: Member, at: Instant) -> Option<TargetState> {
        if member.is_draining {
            return (at < member.since + self.draining_for).then_some(TargetState::Draining);
        }
        Some(match at {
            at if at < member.since + self.initial_for => TargetState::Initial,
            _ if self.dead.contains(&target.address) => TargetState::Unhealthy,
            _ => TargetState::Healthy,
        })
    }

    fn as_of(&self, at: Instant) -> (&BTreeMap<Target, Member>, &Tags) {
        let before = self.before.iter().find(|(until, ..)| *until > at);
        before.map_or((&self.members, &self.tags), |(_, members, tags)| (members, tags))
    }

    fn change(&mut self, now: Instant) -> (&mut BTreeMap<Target, Member>, &mut Tags) {
        self.before.retain(|(until, ..)| *until + LONGEST_LAG > now);
        self.before.push((now, self.members.clone(), self.tags.clone()));
        let draining_for = self.draining_for;
        self.members.retain(|_, member| !member.is_draining || now < member.since + draining_for);
        (&mut self.members, &mut self.tags)
    }
}

/// The caches in front of a name, each of which a query may meet.
#[derive(Clone, Debug)]
pub struct Caches {
    ttl: Duration,
    held: Vec<Option<(Instant, BTreeSet<IpAddr>)>>,
}

impl Caches {
    /// None at all asks anew each time.
    pub fn new(ttl: Duration, number: usize) -> Self {
        Self { ttl, held: vec![None; number] }
    }

    pub fn number(&self) -> usize {
        self.held.len()
    }

    /// An answer by this cache, with the time to live in whole seconds, as resolvers tell it.
    pub fn ask(
        &mut self,
        cache: usize,
        now: Instant,
        fresh: impl FnOnce() -> BTreeSet<IpAddr>,
    ) -> (BTreeSet<IpAddr>, Duration) {
        let Some(held) = self.held.get_mut(cache) else { return (fresh(), self.ttl) };
        if held.as_ref().is_none_or(|(until, _)| *until <= now) {
            *held = Some((now + self.ttl, fresh()));
        }
        let (until, addresses) = held.as_ref().unwrap();
        let left = until.saturating_duration_since(now).as_millis().div_ceil(1000);
        (addresses.clone(), Duration::from_secs(left.try_into().unwrap()))
    }
}

/// An error of ELBv2.
pub fn elb_error(operation: &'static str, kind: ElbErrorKind, problem: &str) -> ElbError {
    ElbError { operation, kind, problem: problem.to_owned() }
}

/// What one name server said instead of an answer.
pub fn resolve_error(failure: DnsFailure) -> ResolveError {
    ResolveError { failures: vec![(SocketAddr::from(([127, 0, 0, 1], 53)), failure)] }
}

const ZONE: &str = "eu-west-1a";

/// How far back a read may see.
const LONGEST_LAG: Duration = Duration::from_secs(30);
