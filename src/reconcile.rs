//! The reconciliation of one target group: asks DNS and ELBv2, lets the plan decide, and carries
//! it out.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::{
    join,
    time::{Instant, sleep, timeout_at},
};
use tracing::{info, warn};

use crate::{
    binding::{Group, Ownership},
    dns::{Answer, ResolveError, Resolver},
    hostname::Hostname,
    kind::HostnameKind,
    limiter::{Limiter, Priority},
    network::{AllowedNetworks, is_public},
    plan::{Desired, Plan, Policy},
    report::{GroupReport, Kind},
    sampling::{Sampling, time_to_collect},
    state::{MOST_TAGS, State, TagChanges, Tags, Timestamp, is_ours, takes_room},
    target::{IpFamily, RegisteredTarget, Target, TargetState},
    target_group::{BATCH, ElbError, Facts, RegisterError, TargetGroups},
};

/// Brings target groups into step with DNS.
#[derive(Debug)]
pub struct Reconciler {
    /// Asks DNS.
    pub resolver: Resolver,
    /// Asks and changes ELBv2.
    pub target_groups: TargetGroups,
    /// Which addresses may become targets.
    pub allowed_networks: AllowedNetworks,
    /// The budget of ELBv2 requests.
    pub limiter: Arc<Limiter>,
    /// The clock that grace periods are measured by.
    pub now: fn() -> SystemTime,
}

/// What DNS said to all hostnames of a target group.
#[derive(Debug)]
pub struct Resolution {
    family: IpFamily,
    /// Of a hostname whose answers are samples, all that were collected.
    answers: BTreeMap<Hostname, Result<Answer, ResolveError>>,
    samplings: BTreeMap<Hostname, Sampling>,
    took: Duration,
}

/// What the answers mean for a target group.
pub struct Look {
    /// What should be registered.
    pub desired: Desired,
    /// The addresses that may become targets.
    resolved: BTreeSet<IpAddr>,
    refused: BTreeMap<IpAddr, String>,
    problems: Vec<String>,
    took: Duration,
}

/// How thoroughly a target group is reconciled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// As [`Self::Full`], but nothing is written.
    DryRun,
    /// Of names that give samples, as many answers are collected as the hostname's kind or its
    /// binding asks for.
    Full,
    /// One answer of each name. Where it is a sample, it may bring new targets, but none goes.
    Quick,
}

/// What a target group was found or brought in step with.
#[derive(Clone, Debug)]
pub struct InStep {
    /// What DNS gave. Where answers are samples, also what else is registered and was not in one.
    pub targets: BTreeSet<Target>,
    /// When the grace of a waiting target is over.
    pub due: Option<Timestamp>,
    /// How long a resolver in between may repeat the answers.
    pub ttl: Option<Duration>,
}

impl InStep {
    /// Whether DNS gives something else.
    pub fn differs(&self, desired: &Desired, resolution: &Resolution) -> bool {
        if desired.complete && !resolution.is_sampled() {
            desired.targets != self.targets
        } else {
            !desired.targets.is_subset(&self.targets)
        }
    }
}

/// What a reconciliation waits for, so that one that is given up can name it.
#[derive(Debug, Default)]
struct Waits(Mutex<BTreeSet<&'static str>>);

/// One target group in one run.
struct Reconciliation<'a> {
    reconciler: &'a Reconciler,
    group: &'a Group,
    mode: Mode,
    cutoff: Instant,
    waits: &'a Waits,
    facts: Facts,
    resolution: Resolution,
    policy: Policy,
    /// Whether as many answers were collected of names that give samples as there was time for.
    /// Before that, absence from them means nothing.
    collected: bool,
    /// When the collection ends at the latest, once it has begun.
    collect_until: Option<Instant>,
    /// Why looks of a collection brought no answer.
    failed_looks: BTreeMap<Hostname, ResolveError>,
    listed: Vec<RegisteredTarget>,
    memory: Memory,
    /// Whether a run beside this one may have deregistered what this one found registered. Of two
    /// that deregister, the later one sees what the other did, so that no group is left empty.
    unverified: bool,
    /// When `listed` and `memory` were read.
    read_at: Instant,
    /// What RegisterTargets refused for good.
    refused: BTreeMap<IpAddr, String>,
    /// What went wrong besides, where the rest goes on.
    problems: Vec<String>,
}

/// What the tags of a target group say.
#[derive(Debug, Default)]
struct Memory {
    tags: Tags,
    state: State,
    /// Whether it could be read and written so far.
    usable: bool,
    /// Whether empty tags could not be removed. They do no harm; the next run tries again.
    untidy: bool,
}

impl Reconciler {
    /// Reconciles one target group, and gives up at `cutoff`. The caller has waited for the turn
    /// of the first DescribeTargetHealth. `early` is what DNS said before.
    ///
    /// What went wrong is in the report. Returned is what the group is in step with, if it is.
    pub async fn reconcile(
        &self,
        group: &Group,
        early: Option<Resolution>,
        mode: Mode,
        cutoff: Instant,
        report: &mut GroupReport,
    ) -> Option<InStep> {
        let waits = Waits::default();
        let earlier = report.clone();
        report.problems.clear();
        report.warnings.clear();
        report.held = None;
        let looking = self.look_and_act(group, early, mode, cutoff, report, &waits);
        let result = timeout_at(cutoff, looking).await;
        let waiting = waits.names();
        let in_step = match result {
            Ok(Ok(in_step)) => in_step,
            Ok(Err(problem)) => {
                report.problems.push(problem);
                None
            }
            // It only waited for its turn, and nothing was decided: the budget put it off.
            Err(_) if waiting.is_empty() && report.held.is_none() => {
                *report = earlier;
                return None;
            }
            Err(_) => {
                let what = if waiting.is_empty() { "its turn under ELB_REQUESTS_PER_SECOND" } else { &waiting };
                report.problems.push(format!("given up shortly before the deadline, still waiting for {what}"));
                None
            }
        };
        report.held = report.held.or(earlier.held);
        report.settle();
        log(report, &earlier);
        in_step
    }

    async fn look_and_act(
        &self,
        group: &Group,
        early: Option<Resolution>,
        mode: Mode,
        cutoff: Instant,
        report: &mut GroupReport,
        waits: &Waits,
    ) -> Result<Option<InStep>, String> {
        let arn = &group.arn;
        let (known, (listed, listed_at), memory) = join!(
            async {
                let facts = match self.target_groups.known_facts(arn) {
                    Some(known) => known?,
                    None => {
                        self.limiter.acquire(Priority::Continue).await;
                        waits.on("DescribeTargetGroups", self.target_groups.read_facts(arn)).await?
                    }
                };
                let resolution = match early {
                    Some(early) if early.is_complete() => early,
                    _ => waits.on("DNS", self.resolve(group, facts.family, dns_cutoff(cutoff))).await,
                };
                Ok::<_, ElbError>((facts, resolution))
            },
            async {
                let listed = waits.on("DescribeTargetHealth", self.target_groups.describe(arn)).await;
                (listed, Instant::now())
            },
            async {
                // What a CNAME chain will tell is not known yet.
                let policy = group.policy(group.kinds_by_name());
                if !policy.needs_state() {
                    return None;
                }
                Some((self.read_memory(group, waits).await, Instant::now()))
            },
        );
        if let Ok(listed) = &listed {
            report.count(listed);
        }
        let (facts, resolution) = known.map_err(|error| error.to_string())?;
        let look = self.look(group, facts, &resolution);
        look.note(report);
        let listed = listed.map_err(|error| error.to_string())?;
        let policy = group.policy(resolution.kinds().map(|(_, kind)| kind));
        let memory = match memory {
            None if policy.needs_state() => Some((self.read_memory(group, waits).await, Instant::now())),
            known => known,
        };
        let read_at = memory.as_ref().map_or(listed_at, |(_, at)| listed_at.min(*at));
        let mut problems = Vec::new();
        let memory = match memory.map(|(memory, _)| memory) {
            None => Memory::default(),
            Some(Ok((memory, unreadable))) => {
                for warning in unreadable {
                    warn!(target_group = %arn, warning, "state");
                    report.warnings.push(warning);
                }
                memory
            }
            // Whose the targets are is not known, and what is registered now could not be
            // remembered as ours.
            Some(Err(error)) if policy.ownership == Ownership::Shared => return Err(error.to_string()),
            Some(Err(error)) => {
                problems.push(error.to_string());
                Memory::default()
            }
        };
        let reconciliation = Reconciliation {
            reconciler: self,
            group,
            mode,
            cutoff,
            waits,
            facts,
            policy,
            collected: false,
            collect_until: None,
            failed_looks: BTreeMap::new(),
            resolution,
            listed,
            memory,
            unverified: false,
            read_at,
            refused: BTreeMap::new(),
            problems,
        };
        reconciliation.act(report).await
    }

    /// Asks all hostnames of a group once.
    pub async fn resolve(&self, group: &Group, family: IpFamily, until: Instant) -> Resolution {
        let asked_at = Instant::now();
        let answers = self.ask(group.hostnames(), family, until).await;
        let samplings = answers.iter().filter_map(|(hostname, answer)| {
            let answer = answer.as_ref().ok()?;
            let mut sampling = Sampling::new(group.lookups.get(hostname).copied());
            sampling.add(&answer.addresses, answer.kind(), answer.ttl, Duration::ZERO);
            Some((hostname.clone(), sampling))
        });
        Resolution { family, samplings: samplings.collect(), answers, took: asked_at.elapsed() }
    }

    async fn ask(
        &self,
        hostnames: BTreeSet<&Hostname>,
        family: IpFamily,
        until: Instant,
    ) -> BTreeMap<Hostname, Result<Answer, ResolveError>> {
        let answers = hostnames
            .into_iter()
            .map(async |hostname| (hostname.clone(), self.resolver.resolve(hostname, family, until).await));
        answers.collect::<FuturesUnordered<_>>().collect().await
    }

    /// Judges the answers: which addresses may become targets, and what is the matter with the
    /// hostnames that give none.
    pub fn look(&self, group: &Group, facts: Facts, resolution: &Resolution) -> Look {
        let mut usable: BTreeMap<&Hostname, BTreeSet<IpAddr>> = BTreeMap::new();
        let mut refused = BTreeMap::new();
        let mut problems = Vec::new();
        for (hostname, answer) in &resolution.answers {
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    problems.push(format!("{hostname}: {error}"));
                    continue;
                }
            };
            let mut own = BTreeMap::new();
            for address in &answer.addresses {
                match self.allowed_networks.refusal(*address) {
                    Some(reason) => drop(own.insert(*address, reason)),
                    None => drop(usable.entry(hostname).or_default().insert(*address)),
                }
            }
            if !usable.contains_key(hostname) {
                let list = own.iter().map(|(address, reason)| format!("{address}: {reason}")).collect::<Vec<_>>();
                let public = own.keys().copied().any(is_public);
                problems.push(format!(
                    "{hostname}: no address of the answer can be registered ({}){}",
                    list.join("; "),
                    if public { RUN_IN_THE_VPC } else { "" },
                ));
            }
            refused.extend(own);
        }
        Look {
            desired: Desired {
                targets: group.targets(facts.port, |hostname| usable.get(hostname).into_iter().flatten().copied()),
                refused: refused.keys().copied().collect(),
                complete: problems.is_empty(),
            },
            resolved: usable.values().flatten().copied().collect(),
            refused,
            problems,
            took: resolution.took,
        }
    }

    /// Reads the tags, and says what of them can't be read.
    async fn read_memory(&self, group: &Group, waits: &Waits) -> Result<(Memory, Vec<String>), ElbError> {
        self.limiter.acquire(Priority::Continue).await;
        let tags = waits.on("DescribeTags", self.target_groups.describe_tags(&group.arn)).await?;
        let (state, unreadable) = State::read(&tags);
        Ok((Memory { tags, state, usable: true, untidy: false }, unreadable))
    }
}

impl Reconciliation<'_> {
    /// Acts until there is nothing left to do. What goes wrong is either noted in the report,
    /// where the rest goes on, or returned.
    async fn act(mut self, report: &mut GroupReport) -> Result<Option<InStep>, String> {
        let reconciler = self.reconciler;
        let limiter = &reconciler.limiter;
        let began = Timestamp::from((reconciler.now)());
        let mut quota_reached = false;
        let mut registered_when_room_was_made = None;
        let mut has_failed = false;
        let mut has_turn = false;
        let mut rereads = 0;
        loop {
            self.refresh_answers().await;
            // Newer answers may be of another kind; what was remembered for the old one stays.
            let policy = self.group.policy(self.resolution.kinds().map(|(_, kind)| kind));
            self.policy.deregister_after_seconds =
                self.policy.deregister_after_seconds.max(policy.deregister_after_seconds);
            report.set_policy(self.policy, self.resolution.settings());
            let collecting = self.resolution.is_sampled() && !self.collected;
            let mut look = self.reconciler.look(self.group, self.facts, &self.resolution);
            let all_resolved = look.desired.complete;
            let memory_is_missing = self.policy.needs_state() && !self.memory.usable;
            let is_conclusive = self.resolution.samplings.values().all(Sampling::is_conclusive);
            look.desired.complete = all_resolved && !collecting && is_conclusive && !memory_is_missing;
            let now = Timestamp::from((self.reconciler.now)());
            let plan = Plan::new(&look.desired, &self.listed, &self.memory.state, self.policy, began, now);
            look.note(report);
            report.refused.extend(self.refused.clone());
            report.problems.extend(self.problems.clone());
            if !collecting {
                report.kept.clone_from(&plan.held);
                report.wait_for(&plan.waiting, self.policy);
            }
            let tags =
                if self.memory.usable { self.tag_changes(&plan.state, now, report) } else { TagChanges::default() };
            let changes_state = !tags.is_empty();
            let is_given = |target: &&Target| look.desired.refused.contains(&target.address);
            let unseen: BTreeSet<_> = plan
                .held
                .iter()
                .filter(|target| all_resolved && !is_given(target))
                .map(|target| target.address)
                .collect();
            if !collecting && !unseen.is_empty() {
                self.warn_of_caches(report);
            }
            // In a shared group, nothing is registered whose state can't be written.
            let forgotten = |target: &Target| memory_is_missing && !self.memory.state.owned.contains(target);
            let (turned_down, mut missing): (Vec<Target>, Vec<Target>) = plan.register.iter().partition(|target| {
                self.refused.contains_key(&target.address)
                    || (self.policy.ownership == Ownership::Shared && forgotten(target))
            });
            let mut deregister = if turned_down.is_empty() { plan.deregister.clone() } else { BTreeSet::new() };
            if has_failed {
                // Since when what is missing has been missing is remembered all the same: it may be
                // what makes room.
                missing.clear();
                deregister.clear();
            }
            // What is only to be remembered waits for the other answers, which change it again.
            let has_more_to_ask = collecting && self.mode != Mode::Quick;
            let is_done = missing.is_empty() && deregister.is_empty() && (!changes_state || has_more_to_ask);
            if self.mode == Mode::DryRun || is_done {
                if has_more_to_ask {
                    self.collect(unseen).await;
                    continue;
                }
                if mem::take(&mut self.unverified) {
                    self.relist(report).await?;
                    let registered = self.listed.iter().filter(|listed| listed.state.is_registered());
                    let registered: BTreeSet<_> = registered.map(|listed| listed.target).collect();
                    if !look.desired.targets.is_subset(&registered) {
                        // Whoever did that had another answer.
                        let hostnames = self.resolution.answers.keys().cloned().collect();
                        self.ask_again(&hostnames, dns_cutoff(self.cutoff), !self.collected).await;
                    }
                    continue;
                }
                if has_turn {
                    limiter.give_back();
                }
                if self.mode == Mode::DryRun {
                    let registered: Vec<_> = plan.register.into_iter().collect();
                    let deregistered: Vec<_> = plan.deregister.iter().map(|shown| shown.target).collect();
                    log_changes(report, &registered, &deregistered, "would be ");
                    report.registered.extend(registered);
                    report.deregistered.extend(deregistered);
                    return Ok(None);
                }
                if !turned_down.is_empty() {
                    report.kept.extend(plan.deregister.iter().map(|shown| shown.target));
                }
                for target in &turned_down {
                    if let Some(reason) = self.refused.get(&target.address) {
                        report.problems.push(format!("RegisterTargets refused {target}: {reason}"));
                    }
                }
                return Ok(report.problems.is_empty().then(|| self.in_step(look.desired.targets, &plan)));
            }
            if !has_turn {
                limiter.acquire(Priority::Continue).await;
                has_turn = true;
                if self.resolution.is_old() {
                    continue;
                }
            }
            if self.read_at.elapsed() > OLDEST_ANSWER && rereads < MOST_REREADS {
                rereads += 1;
                self.reread(report).await?;
                continue;
            }
            has_turn = false;
            rereads = 0;
            let state_first = self.policy.ownership == Ownership::Shared;
            if changes_state && (state_first || (missing.is_empty() && deregister.is_empty())) {
                if let Err(error) = self.write_tags(tags).await {
                    self.problems.push(error.to_string());
                    self.memory.usable = false;
                }
            } else if missing.is_empty() || (quota_reached && !deregister.is_empty()) {
                // Where the quota refused what is missing, as much room is made as that needs, and
                // the last target stays for as long as there is another way.
                let registered = self.listed.iter().filter(|listed| listed.state.is_registered()).count();
                let room = missing.len().min(registered.saturating_sub(1).max(1));
                let most = if missing.is_empty() { BATCH } else { room.min(BATCH) };
                let batch = deregister.into_iter().take(most).collect();
                if let Err(problem) = self.deregister(&batch, report).await {
                    self.problems.push(problem);
                    has_failed = true;
                }
                if quota_reached {
                    quota_reached = false;
                    registered_when_room_was_made = Some(report.registrations);
                }
            } else {
                let batch = missing.into_iter().take(BATCH).collect();
                match self.register(&batch, report).await {
                    // Room that helped nothing is not made again: that would empty the group.
                    Err(RegisterError::QuotaReached(_))
                        if !deregister.is_empty() && registered_when_room_was_made != Some(report.registrations) =>
                    {
                        quota_reached = true;
                    }
                    // What is stale, and makes room, is only known when answers were collected.
                    Err(RegisterError::QuotaReached(_)) if collecting && self.mode == Mode::Full => {
                        while !self.collected {
                            self.collect(unseen.clone()).await;
                        }
                    }
                    Err(error) => {
                        self.problems.push(error.to_string());
                        has_failed = true;
                    }
                    Ok(()) => {}
                }
            }
        }
    }

    /// Says of which names a run came to know no more than one answer, so that what it lacks stays.
    fn warn_of_caches(&self, report: &mut GroupReport) {
        let group = &report.target_group_arn;
        let inconclusive = self.resolution.samplings.iter().filter(|(_, sampling)| !sampling.is_conclusive());
        for (hostname, _) in inconclusive.filter(|(hostname, _)| !self.failed_looks.contains_key(*hostname)) {
            let warning = format!(
                "{hostname}: a resolver in between may repeat its answer for longer than this run could wait, so no target \
                 goes that the answer lacks; give the function more time, or state `lookups`: 1 and, where its answers \
                 are samples, a long `deregister_after_seconds`"
            );
            if !report.warnings.contains(&warning) {
                warn!(target_group = %group, warning, "kept");
                report.warnings.push(warning);
            }
        }
    }

    /// What was true when a slow call began must not undo what a newer run has done since. Twice,
    /// because a slow name may make the answers beside it old meanwhile, and a sample may fail.
    async fn refresh_answers(&mut self) {
        for may_fail in [true, !self.collected] {
            if self.resolution.is_old() {
                let old = self.resolution.answers.iter().filter(|(_, answer)| is_old(answer));
                let old = old.map(|(hostname, _)| hostname.clone()).collect::<BTreeSet<_>>();
                self.ask_again(&old, dns_cutoff(self.cutoff), may_fail).await;
            }
        }
    }

    /// Collects answers of the names that give samples, until there are enough or one brings a new
    /// address. `unseen` are the addresses of targets that are in none so far.
    async fn collect(&mut self, mut unseen: BTreeSet<IpAddr>) {
        let now = Instant::now();
        let time = time_to_collect(self.cutoff.saturating_duration_since(now));
        let until = *self.collect_until.get_or_insert(now + time);
        let known = self.resolution.addresses();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let pauses: Vec<_> = self
                .resolution
                .samplings
                .iter()
                .filter_map(|(hostname, sampling)| {
                    self.resolution.answers.get(hostname)?.as_ref().ok()?;
                    Some((hostname.clone(), sampling.next(!unseen.is_empty(), left)?))
                })
                .collect();
            let Some(pause) = pauses.iter().map(|(_, pause)| *pause).max() else { break };
            sleep(pause).await;
            self.ask_again(&pauses.into_iter().map(|(hostname, _)| hostname).collect(), until, true).await;
            let seen = self.resolution.addresses();
            if seen != known {
                return;
            }
            unseen.retain(|address| !seen.contains(address));
        }
        self.collected = true;
        for (hostname, error) in &self.failed_looks {
            if self.resolution.samplings.get(hostname).is_some_and(|sampling| !sampling.is_conclusive()) {
                self.problems.push(format!("{hostname}: too few of its answers could be collected: {error}"));
            }
        }
    }

    /// Asks again. A name that gives samples keeps what it gave, and where it `may_fail` and does,
    /// another look makes up for it; of others, the newest answer is all that counts.
    async fn ask_again(&mut self, hostnames: &BTreeSet<Hostname>, until: Instant, may_fail: bool) {
        let asking = self.reconciler.ask(hostnames.iter().collect(), self.resolution.family, until);
        let answers = self.waits.on("DNS", asking).await;
        for (hostname, mut answer) in answers {
            let earlier = self.resolution.answers.get(&hostname);
            if let (Some(Ok(earlier)), Some(sampling)) = (earlier, self.resolution.samplings.get_mut(&hostname)) {
                match &mut answer {
                    Ok(answer) => {
                        let after = answer.at.duration_since(earlier.at);
                        sampling.add(&answer.addresses, answer.kind(), answer.ttl, after);
                        if sampling.is_sample() {
                            answer.addresses.extend(&earlier.addresses);
                        }
                    }
                    Err(error) if sampling.is_sample() && may_fail => {
                        // That there is no time left for another look says nothing of the name.
                        if !error.is_out_of_time() {
                            sampling.fail();
                            self.failed_looks.insert(hostname, error.clone());
                        }
                        continue;
                    }
                    Err(_) => {}
                }
            }
            self.resolution.answers.insert(hostname, answer);
        }
    }

    /// Reads again what may have changed while this run waited. It has waited for its turn
    /// already: to wait again for what only then may be acted on might never end.
    async fn reread(&mut self, report: &mut GroupReport) -> Result<(), String> {
        self.relist(report).await?;
        if self.memory.usable {
            self.reread_memory().await?;
        }
        self.read_at = Instant::now();
        Ok(())
    }

    async fn relist(&mut self, report: &mut GroupReport) -> Result<(), String> {
        self.reconciler.limiter.take_unasked();
        let describing = self.reconciler.target_groups.describe(&self.group.arn);
        self.listed = self.waits.on("DescribeTargetHealth", describing).await.map_err(|error| error.to_string())?;
        report.count(&self.listed);
        Ok(())
    }

    async fn reread_memory(&mut self) -> Result<(), String> {
        self.reconciler.limiter.take_unasked();
        let describing = self.reconciler.target_groups.describe_tags(&self.group.arn);
        self.memory.tags = self.waits.on("DescribeTags", describing).await.map_err(|error| error.to_string())?;
        if self.memory.untidy {
            self.memory.tags.retain(|key, value| !(is_ours(key) && value.is_empty()));
        }
        (self.memory.state, _) = State::read(&self.memory.tags);
        Ok(())
    }

    /// What makes the tags hold this state; the report says so where there is no room for all of
    /// it.
    fn tag_changes(&self, state: &State, now: Timestamp, report: &mut GroupReport) -> TagChanges {
        let foreign = self.memory.tags.keys().filter(|key| takes_room(key) && !is_ours(key)).count();
        let room = MOST_TAGS.saturating_sub(foreign);
        let (wanted, left_out) = state.write(self.policy.ownership, room);
        if left_out > 0 {
            report.problems.push(format!(
                "no room in the target group's tags to remember {left_out} targets ({foreign} of {MOST_TAGS} tags are \
                 others'), which will not be deregistered: remove tags, or bind the hostnames to several target groups"
            ));
        }
        TagChanges::new(&self.memory.tags, wanted, self.policy.ownership, now)
    }

    async fn write_tags(&mut self, changes: TagChanges) -> Result<(), ElbError> {
        let TagChanges { add, mut remove } = changes;
        let has_several_calls = !add.is_empty() && !remove.is_empty();
        if has_several_calls {
            self.reconciler.limiter.take_unasked();
        }
        let together: BTreeSet<_> = self.memory.tags.keys().chain(add.keys()).collect();
        if has_several_calls && together.into_iter().filter(|key| takes_room(key)).count() > MOST_TAGS {
            // There is no room for the new ones beside the old ones.
            self.remove_tags(mem::take(&mut remove)).await?;
        }
        if !add.is_empty() {
            let add = add.into_iter().filter(|(key, value)| !value.is_empty() || remove.contains(key)).collect();
            self.waits.on("AddTags", self.reconciler.target_groups.add_tags(&self.group.arn, &add)).await?;
            self.memory.tags.extend(add);
            (self.memory.state, _) = State::read(&self.memory.tags);
        }
        if remove.is_empty() { Ok(()) } else { self.remove_tags(remove).await }
    }

    async fn remove_tags(&mut self, keys: Vec<String>) -> Result<(), ElbError> {
        let target_groups = &self.reconciler.target_groups;
        let arn = &self.group.arn;
        let result = self.waits.on("RemoveTags", target_groups.remove_tags(arn, keys.clone())).await;
        let says_something = keys.iter().any(|key| self.memory.tags.get(key).is_some_and(|value| !value.is_empty()));
        if let Err(error) = result {
            if says_something {
                // A time that was dropped must not be found again.
                self.reconciler.limiter.take_unasked();
                let blank = keys.iter().map(|key| (key.clone(), String::new())).collect();
                self.waits.on("AddTags", target_groups.add_tags(arn, &blank)).await?;
            }
            self.memory.untidy = true;
            self.problems.push(error.to_string());
        }
        self.memory.tags.retain(|key, _| !keys.contains(key));
        (self.memory.state, _) = State::read(&self.memory.tags);
        Ok(())
    }

    async fn register(&mut self, batch: &BTreeSet<Target>, report: &mut GroupReport) -> Result<(), RegisterError> {
        let mut registered = Vec::new();
        let mut accepted = |targets: &[Target]| {
            report.registered.extend(targets);
            report.registrations += targets.len();
            registered.extend_from_slice(targets);
        };
        let target_groups = &self.reconciler.target_groups;
        let call = target_groups.register(&self.group.arn, batch, &mut accepted, &mut self.refused);
        let result = self.waits.on("RegisterTargets", call).await;
        log_changes(report, &registered, &[], "");
        self.listed.retain(|shown| !registered.contains(&shown.target));
        self.listed.extend(registered.into_iter().map(|target| RegisteredTarget {
            target,
            id: target.address.to_string(),
            availability_zone: None,
            state: TargetState::Other,
        }));
        report.count(&self.listed);
        report.refused.extend(self.refused.clone());
        result
    }

    async fn deregister(&mut self, batch: &BTreeSet<RegisteredTarget>, report: &mut GroupReport) -> Result<(), String> {
        let call = self.reconciler.target_groups.deregister(&self.group.arn, batch);
        self.waits.on("DeregisterTargets", call).await.map_err(|error| error.to_string())?;
        let deregistered: Vec<_> = batch.iter().map(|shown| shown.target).collect();
        log_changes(report, &[], &deregistered, "");
        report.deregistered.extend(&deregistered);
        report.deregistrations += deregistered.len();
        for shown in self.listed.iter_mut().filter(|shown| batch.contains(shown)) {
            shown.state = TargetState::Draining;
        }
        self.unverified = true;
        report.count(&self.listed);
        Ok(())
    }

    fn in_step(&self, mut targets: BTreeSet<Target>, plan: &Plan) -> InStep {
        if self.resolution.is_sampled() {
            targets.extend(plan.held.iter().chain(plan.waiting.keys()));
        }
        let due = plan.waiting.values().min().map(|since| since.plus_seconds(self.policy.deregister_after_seconds));
        InStep { targets, due, ttl: self.resolution.ttl() }
    }
}

impl Resolution {
    /// Whether every hostname resolved.
    pub fn is_complete(&self) -> bool {
        self.answers.values().all(Result::is_ok)
    }

    /// Whether an answer of a hostname holds but a sample of its addresses.
    pub fn is_sampled(&self) -> bool {
        self.samplings.values().any(Sampling::is_sample)
    }

    /// How long a resolver in between may repeat the answers; `None` where there is none.
    pub fn ttl(&self) -> Option<Duration> {
        self.answers.values().flatten().map(|answer| answer.ttl).min()
    }

    /// All addresses of all answers.
    fn addresses(&self) -> BTreeSet<IpAddr> {
        self.answers.values().flatten().flat_map(|answer| &answer.addresses).copied().collect()
    }

    /// What each hostname was taken for, and how many answers a run collects of it.
    fn settings(&self) -> Vec<Kind> {
        let lookups = |hostname, kind: HostnameKind| {
            self.samplings.get(hostname).map_or_else(|| kind.lookups(), Sampling::lookups)
        };
        let settings = self.kinds().map(|(hostname, kind)| Kind {
            hostname: hostname.clone(),
            kind,
            lookups: lookups(hostname, kind),
        });
        settings.collect()
    }

    /// The hostnames that did not resolve.
    pub fn failures(&self) -> impl Iterator<Item = (&Hostname, &ResolveError)> {
        self.answers.iter().filter_map(|(hostname, answer)| Some((hostname, answer.as_ref().err()?)))
    }

    /// What kind each hostname is of; one that did not resolve, by its name alone.
    fn kinds(&self) -> impl Iterator<Item = (&Hostname, HostnameKind)> {
        self.answers
            .iter()
            .map(|(hostname, answer)| (hostname, answer.as_ref().map_or_else(|_| hostname.kind(), Answer::kind)))
    }

    /// Whether an answer is too old to plan on.
    fn is_old(&self) -> bool {
        self.answers.values().any(is_old)
    }
}

fn is_old(answer: &Result<Answer, ResolveError>) -> bool {
    answer.as_ref().is_ok_and(|answer| answer.at.elapsed() > OLDEST_ANSWER)
}

/// Three quarters of the time that is left: DNS that hangs has to leave some for what else DNS
/// gave.
pub fn dns_cutoff(cutoff: Instant) -> Instant {
    let now = Instant::now();
    now + cutoff.saturating_duration_since(now) * 3 / 4
}

/// A line for each thing that is not as it should be, unless an earlier report had it.
fn log(report: &GroupReport, earlier: &GroupReport) {
    let group = &report.target_group_arn;
    let hostname = report.names();
    for target in report.kept.difference(&earlier.kept) {
        let reason = "a hostname did not resolve or gave too few answers, or ALLOWED_CIDRS or AWS refused an address";
        warn!(target_group = %group, hostname, %target, reason, "kept");
    }
    for (address, reason) in report.refused.iter().filter(|(address, _)| !earlier.refused.contains_key(*address)) {
        warn!(target_group = %group, hostname, %address, reason, "refused");
    }
}

/// A line for each change.
fn log_changes(report: &GroupReport, registered: &[Target], deregistered: &[Target], would: &str) {
    let group = &report.target_group_arn;
    let hostname = report.names();
    for target in registered {
        info!(target_group = %group, hostname, %target, reason = "an answer holds it", "{would}registered");
    }
    for target in deregistered {
        info!(target_group = %group, hostname, %target, reason = "no answer holds it", "{would}deregistered");
    }
}

impl Look {
    /// Puts it into the report, in place of an earlier look.
    pub fn note(&self, report: &mut GroupReport) {
        report.resolved.clone_from(&self.resolved);
        report.refused.clone_from(&self.refused);
        report.problems.clone_from(&self.problems);
        report.resolve_time = Some(self.took);
    }
}

impl Waits {
    /// Waits for `future`, and remembers so for as long as it takes. Where the wait is cut off,
    /// the memory stays.
    async fn on<T>(&self, what: &'static str, future: impl Future<Output = T>) -> T {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(what);
        let output = future.await;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(what);
        output
    }

    fn names(&self) -> String {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.iter().copied().collect::<Vec<_>>().join(" and ")
    }
}

/// The contract: an answer that is older by the time the targets are known is asked for again.
const OLDEST_ANSWER: Duration = Duration::from_secs(2);

/// How often the targets are read again before a change. DNS and ELBv2 may both be so slow that
/// one is always old when the other is known.
const MOST_REREADS: u32 = 2;

const RUN_IN_THE_VPC: &str = ". If this is a publicly accessible database: its name resolves to its private address \
     only inside its VPC, so the function must run in that VPC";
