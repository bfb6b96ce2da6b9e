//! A run over one target group: read, plan, change, and read again until there is nothing to change.

mod known;

use std::time::{Duration, Instant};
use std::{collections::BTreeSet, num::NonZeroU16};

use futures_util::future::join3;
pub use known::Known;

use crate::answer::Answer;
use crate::binding::{Group, Ownership};
use crate::failure::ElbError;
use crate::plan::{Change, Plan};
use crate::tags::{State, Tags};
use crate::{hostname::Hostname, memory::Memory, network::AllowedNetworks, target::Facts, world::World};

/// What a run is about.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// The target group, and what is bound to it.
    pub group: &'a Group,
    /// What never changes about it.
    pub facts: Facts,
    /// Which addresses may become targets.
    pub allowed: &'a AllowedNetworks,
    /// The name of this function, by which it owns targets of `shared` groups.
    pub function: &'a str,
}

impl Task<'_> {
    /// The ports that the addresses of a hostname are registered on.
    pub fn ports(&self, hostname: &Hostname) -> impl Iterator<Item = NonZeroU16> {
        let members = self.group.members.iter().filter(move |(bound, _)| bound == hostname);
        members.map(|(_, port)| port.unwrap_or(self.facts.port))
    }

    /// All hostnames.
    pub fn hostnames(&self) -> BTreeSet<Hostname> {
        self.group.hostnames().into_iter().cloned().collect()
    }
}

/// How thoroughly a target group is reconciled.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// As [`Self::Full`], but nothing is written.
    DryRun,
    /// Of names whose answers are samples, several are collected.
    #[default]
    Full,
    /// One answer of each name: a watch goes on to ask anyway.
    Single,
}

/// Brings a target group in step. What it knows and did is in `known`, also where the run is given up.
pub async fn reconcile(world: &impl World, task: &Task<'_>, known: &mut Known, memory: &mut Memory) {
    memory.begin_run(task);
    Run { world, task, known, memory }.reconcile().await;
}

/// A run, and all that it works with.
struct Run<'a, W> {
    world: &'a W,
    task: &'a Task<'a>,
    known: &'a mut Known,
    memory: &'a mut Memory,
}

impl<W: World> Run<'_, W> {
    async fn reconcile(&mut self) {
        self.read().await;
        for _ in 0..MOST_STEPS {
            self.refresh().await;
            if !self.known.may_go_on() {
                return;
            }
            let plan = self.plan();
            let change = plan.next(self.known).filter(|_| self.known.mode != Mode::DryRun);
            // What is missing is not kept waiting by answers that only tell what may go.
            let may_wait = plan.register.is_empty() || matches!(change, None | Some(Change::Deregister(_)));
            if may_wait && let Some((pause, hostnames)) = self.next_look(&plan) {
                self.world.sleep(pause).await;
                self.known.looks += 1;
                self.ask(&hostnames, true).await;
                continue;
            }
            if change.is_none() {
                break;
            }
            self.world.turn().await;
            // That may take seconds, so the change is decided on what is true after it.
            if let Some(Ok((asked_at, _))) = &self.known.listed
                && self.age(*asked_at) > OLDEST
            {
                self.list().await;
                // Another function may have claimed some of the targets meanwhile.
                if self.task.group.ownership == Ownership::Shared && self.known.state.is_some() {
                    let tags = self.world.read_tags().await;
                    self.note_tags(tags);
                }
            }
            self.refresh().await;
            let plan = self.plan();
            if let Some(change) = plan.next(self.known).filter(|_| self.known.may_go_on()) {
                self.carry_out(change, plan.state).await;
            }
        }
        if self.plan().failures(self.known).is_empty() {
            self.memory.in_step(self.known);
        }
    }

    fn plan(&self) -> Plan {
        Plan::new(self.task, self.known, self.memory, self.world.now())
    }

    fn age(&self, at: Instant) -> Duration {
        self.world.now().at.saturating_duration_since(at)
    }

    async fn carry_out(&mut self, change: Change, state: State) {
        let Self { world, task, known, memory } = self;
        match change {
            Change::Remember(changes) => match world.write_tags(&changes).await {
                Ok(()) => {
                    known.tags.iter_mut().for_each(|tags| changes.apply(tags));
                    memory.wrote(&state);
                    known.state = Some(state);
                }
                Err(error) => known.lose_state(error),
            },
            Change::Register(targets) => {
                let changed = world.register(&targets).await;
                memory.registered(&changed.accepted, world.now().at);
                known.registered.extend(&changed.accepted);
                known.refused.extend(changed.refused.clone());
                known.note_trouble("RegisterTargets", changed);
                // A run beside this one may have forgotten meanwhile whose these are.
                if task.group.ownership == Ownership::Shared && known.state.is_some() {
                    let tags = world.read_tags().await;
                    self.note_tags(tags);
                }
            }
            Change::Deregister(shown) => {
                let changed = world.deregister(&shown).await;
                let accepted = shown.iter().filter(|shown| changed.accepted.contains(&shown.target));
                memory.deregistered(accepted, world.now().at);
                known.deregistered.extend(&changed.accepted);
                known.stuck.extend(changed.refused.keys());
                known.has_made_room |= known.full.take().is_some();
                known.note_trouble("DeregisterTargets", changed);
                // Of two runs that deregister what the other one counts on, the later one sees it, and asks DNS anew.
                self.list().await;
                if !self.plan().register.is_empty() {
                    self.ask_again(|_| true).await;
                }
            }
        }
    }

    /// The reads that no other waits for, at the same time.
    async fn read(&mut self) {
        let Self { world, task, known, memory } = self;
        let asked_at = world.now().at;
        let mut hostnames = task.hostnames();
        hostnames.retain(|hostname| !matches!(known.answers.get(hostname), Some(Ok(_))));
        let needs_state = memory.needs_state(task);
        let mut tags = None;
        // Each puts away what it has at once: what the others are doing may be given up.
        let Known { answers, took, listed, .. } = &mut **known;
        join3(
            async {
                if !hostnames.is_empty() {
                    let new = world.resolve(&hostnames).await;
                    answers.extend(new.clone());
                    memory.answered(task, &new, answers, world.now());
                    *took = Some(world.now().at.saturating_duration_since(asked_at));
                }
            },
            async {
                let (asked_at, targets) = world.list().await;
                *listed = Some(targets.map(|targets| (asked_at, targets)));
            },
            async {
                if needs_state {
                    tags = Some(world.read_tags().await);
                }
            },
        )
        .await;
        self.note_list();
        // What a name of one's own leads to is known only now.
        if tags.is_none() && self.known.may_go_on() && self.memory.needs_state(self.task) {
            tags = Some(self.world.read_tags().await);
        }
        if let Some(tags) = tags {
            self.note_tags(tags);
        }
    }

    /// Asks again for answers that are too old to plan on: what was true when a slow call began must not undo what a newer
    /// run has done.
    async fn refresh(&mut self) {
        for _ in 0..MOST_REFRESHES {
            self.ask_again(|age| age > OLDEST).await;
        }
    }

    /// Asks again for answers of such an age.
    async fn ask_again(&mut self, is_due: fn(Duration) -> bool) {
        let is_due = |answer: &Answer| is_due(self.age(answer.at));
        let due = self.known.answers.iter().filter(|(_, answer)| answer.as_ref().is_ok_and(is_due));
        let due: BTreeSet<_> = due.map(|(hostname, _)| hostname.clone()).collect();
        if !due.is_empty() {
            self.ask(&due, false).await;
        }
    }

    /// Asks once. The answer of a sample is added to what it gave in this run. Of one that is only to tell more, a failure says
    /// nothing.
    async fn ask(&mut self, hostnames: &BTreeSet<Hostname>, is_more: bool) {
        let answers = self.world.resolve(hostnames).await;
        for (hostname, answer) in &answers {
            let is_sample = self.memory.samples(hostname).is_some_and(|samples| samples.is_sample());
            match (self.known.answers.get_mut(hostname), answer) {
                (Some(Ok(known)), Ok(answer)) if is_sample => {
                    let addresses = &known.addresses | &answer.addresses;
                    *known = Answer { addresses, ..answer.clone() };
                }
                (Some(Ok(_)), Err(_)) if is_more => {}
                _ => drop(self.known.answers.insert(hostname.clone(), answer.clone())),
            }
        }
        self.memory.answered(self.task, &answers, &self.known.answers, self.world.now());
    }

    /// Lists the targets once more.
    async fn list(&mut self) {
        let (asked_at, targets) = self.world.list().await;
        self.known.listed = Some(targets.map(|targets| (asked_at, targets)));
        self.note_list();
    }

    fn note_list(&mut self) {
        match &self.known.listed {
            Some(Ok(_)) => {
                let shown = self.known.shown(self.memory);
                self.memory.listed(self.task, &shown, &self.known.answers, self.world.now());
            }
            Some(Err(error)) => self.known.failures.push(error.clone().into()),
            None => {}
        }
    }

    fn note_tags(&mut self, tags: Result<Tags, ElbError>) {
        match tags {
            Ok(tags) => {
                let (mut state, mut warnings) = State::read(&tags, self.task.function);
                warnings.extend(self.memory.noted(&mut state));
                self.known.warnings.extend(warnings);
                (self.known.tags, self.known.state) = (Some(tags), Some(state));
            }
            Err(error) => self.known.lose_state(error),
        }
    }

    /// When the next answer is due of names whose answers are samples; `None`: there are enough.
    fn next_look(&self, plan: &Plan) -> Option<(Duration, BTreeSet<Hostname>)> {
        let Self { world, task, known, memory } = self;
        if known.mode == Mode::Single {
            return None;
        }
        let now = world.now();
        let left = known.collects_until?.saturating_duration_since(now.at);
        let pauses = task.hostnames().into_iter().filter_map(|hostname| {
            let samples = memory.samples(&hostname).filter(|samples| samples.is_sample())?;
            let is_resolved = matches!(known.answers.get(&hostname), Some(Ok(_)));
            let more = samples.lookups().saturating_sub(known.looks);
            let asks_on = known.mode == Mode::Full && plan.asks_on.contains(&hostname);
            let pause = samples.pause(more == 0, now.time);
            // Rather all that was asked for a little early than some of it not at all.
            let pause = if more > 0 { pause.min(left * 19 / 20 / more) } else { pause };
            (is_resolved && (more > 0 || asks_on) && pause <= left && !left.is_zero()).then_some((pause, hostname))
        });
        let (pauses, hostnames): (Vec<_>, BTreeSet<_>) = pauses.unzip();
        Some((pauses.into_iter().max()?, hostnames))
    }
}

/// Until when DNS may take in a run that ends at `cutoff`. DNS that hangs has to leave some of the time for what else DNS
/// gave.
pub fn dns_cutoff(now: Instant, cutoff: Instant) -> Instant {
    now + cutoff.saturating_duration_since(now) * 3 / 4
}

/// What a run may take: some thousand targets in calls of 200, fifty answers, and 45 s of asking on.
const MOST_STEPS: usize = 500;

/// DNS and ELBv2 may both be so slow that one is always old when the other is known.
const MOST_REFRESHES: usize = 2;

/// The contract: what is older is asked for again before anything is planned on it.
const OLDEST: Duration = Duration::from_secs(2);

/// The contract: how long a run asks on.
const LONGEST_COLLECTION: Duration = Duration::from_secs(45);
