//! A run over one target group: read, plan, change, and read again until there is nothing to change.

mod known;

use std::time::{Duration, Instant};
use std::{collections::BTreeSet, num::NonZeroU16};

use futures_util::future::join3;
pub use known::Known;

use crate::binding::{Group, Ownership};
use crate::plan::{Change, Plan};
use crate::{
    clock::Now, hostname::Hostname, memory::Memory, network::AllowedNetworks, tags::State, target::Facts, world::World,
};

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
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// As [`Self::Full`], but nothing is written.
    DryRun,
    /// Of names whose answers are samples, several are collected.
    Full,
    /// One answer of each name: a watch goes on to ask anyway.
    Single,
}

/// Brings a target group in step. What it knows and did is in `known`, also where the run is given up.
pub async fn reconcile(world: &impl World, task: &Task<'_>, known: &mut Known, memory: &mut Memory) {
    memory.begin_run(task);
    read(world, task, known, memory).await;
    for _ in 0..MOST_STEPS {
        refresh(world, task, known, memory).await;
        if !known.may_go_on() {
            return;
        }
        let plan = Plan::new(task, known, memory, world.now());
        let change = plan.next(known).filter(|_| known.mode != Mode::DryRun);
        // What is missing is not kept waiting by answers that only tell what may go.
        let may_wait = plan.register.is_empty() || matches!(change, None | Some(Change::Deregister(_)));
        if may_wait && let Some((pause, hostnames)) = next_look(task, known, &plan, memory, world.now()) {
            world.sleep(pause).await;
            known.looks += 1;
            let answers = world.resolve(&hostnames).await;
            known.note_answers(answers, true, task, memory, world.now());
            continue;
        }
        if change.is_none() {
            break;
        }
        world.turn().await;
        // That may take seconds, so the change is decided on what is true after it.
        if matches!(known.listed, Some(Ok(_))) && is_old(known.listed_at, world.now()) {
            list(world, task, known, memory).await;
        }
        refresh(world, task, known, memory).await;
        let plan = Plan::new(task, known, memory, world.now());
        if let Some(change) = plan.next(known).filter(|_| known.may_go_on()) {
            carry_out(world, task, known, memory, change, plan.state).await;
        }
    }
    let failures = Plan::new(task, known, memory, world.now()).failures(known);
    if failures.is_empty() {
        memory.in_step(known);
    }
}

async fn carry_out(
    world: &impl World,
    task: &Task<'_>,
    known: &mut Known,
    memory: &mut Memory,
    change: Change,
    state: State,
) {
    match change {
        Change::Remember(changes) => match world.write_tags(&changes).await {
            Ok(()) => {
                known.tags.iter_mut().for_each(|tags| changes.apply(tags));
                memory.wrote(&state);
                known.state = Some(state);
            }
            Err(error) => {
                known.failures.push(error.into());
                known.state = None;
            }
        },
        Change::Register(targets) => {
            let changed = world.register(&targets).await;
            memory.registered(&changed.accepted, world.now().at);
            known.registered.extend(&changed.accepted);
            known.refused.extend(changed.refused);
            known.take(changed.failed);
            // A run beside this one may have forgotten meanwhile whose these are.
            if task.group.ownership == Ownership::Shared && known.state.is_some() {
                let tags = world.read_tags().await;
                known.note_tags(tags, task, memory);
            }
        }
        Change::Deregister(shown) => {
            let changed = world.deregister(&shown).await;
            let accepted = shown.iter().filter(|shown| changed.accepted.contains(&shown.target));
            memory.deregistered(accepted, world.now().at);
            known.deregistered.extend(&changed.accepted);
            known.stuck.extend(changed.refused);
            known.has_made_room |= known.full.take().is_some();
            known.take(changed.failed);
            // Of two runs that deregister what the other one counts on, the later one sees it, and asks DNS anew.
            list(world, task, known, memory).await;
            if !Plan::new(task, known, memory, world.now()).register.is_empty() {
                ask_again(world, task, known, memory, |_| true).await;
            }
        }
    }
}

/// The reads that no other waits for, at the same time.
async fn read(world: &impl World, task: &Task<'_>, known: &mut Known, memory: &mut Memory) {
    let asked_at = world.now().at;
    let early = known.answers.clone();
    let is_known = |hostname: &Hostname| matches!(early.get(hostname), Some(Ok(_)));
    let hostnames: BTreeSet<_> = task.hostnames().into_iter().filter(|hostname| !is_known(hostname)).collect();
    let needs_state = memory.needs_state(task);
    let mut tags = None;
    // Each puts away what it has at once: what the others are doing may be given up.
    let Known { answers, took, listed, listed_at, .. } = known;
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
            let (at, targets) = world.list().await;
            (*listed_at, *listed) = (at, Some(targets));
        },
        async {
            if needs_state {
                tags = Some(world.read_tags().await);
            }
        },
    )
    .await;
    let now = world.now();
    known.note_list(task, memory, now);
    // What a name of one's own leads to is known only now.
    if tags.is_none() && known.may_go_on() && memory.needs_state(task) {
        tags = Some(world.read_tags().await);
    }
    if let Some(tags) = tags {
        known.note_tags(tags, task, memory);
    }
}

/// Asks again for answers that are too old to plan on: what was true when a slow call began must not undo what a newer run
/// has done.
async fn refresh(world: &impl World, task: &Task<'_>, known: &mut Known, memory: &mut Memory) {
    for _ in 0..MOST_REFRESHES {
        ask_again(world, task, known, memory, |at| is_old(at, world.now())).await;
    }
}

/// Asks again for answers that came at such a time.
async fn ask_again(
    world: &impl World,
    task: &Task<'_>,
    known: &mut Known,
    memory: &mut Memory,
    is_due: impl Fn(Instant) -> bool,
) {
    let due = known.answers.iter().filter(|(_, answer)| answer.as_ref().is_ok_and(|answer| is_due(answer.at)));
    let due: BTreeSet<_> = due.map(|(hostname, _)| hostname.clone()).collect();
    if !due.is_empty() {
        let answers = world.resolve(&due).await;
        known.note_answers(answers, false, task, memory, world.now());
    }
}

/// Lists the targets once more.
async fn list(world: &impl World, task: &Task<'_>, known: &mut Known, memory: &mut Memory) {
    let (listed_at, listed) = world.list().await;
    (known.listed_at, known.listed) = (listed_at, Some(listed));
    known.note_list(task, memory, world.now());
}

/// The contract: what is older is asked for again before anything is planned on it.
fn is_old(at: Instant, now: Now) -> bool {
    now.at.saturating_duration_since(at) > Duration::from_secs(2)
}

/// When the next answer is due of names whose answers are samples; `None`: there are enough.
fn next_look(
    task: &Task<'_>,
    known: &Known,
    plan: &Plan,
    memory: &Memory,
    now: Now,
) -> Option<(Duration, BTreeSet<Hostname>)> {
    if known.mode == Mode::Single {
        return None;
    }
    let left = known.collects_until.saturating_duration_since(now.at);
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
    let pauses: Vec<_> = pauses.collect();
    let pause = pauses.iter().map(|(pause, _)| *pause).max()?;
    Some((pause, pauses.into_iter().map(|(_, hostname)| hostname).collect()))
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

/// The contract: how long a run asks on.
const LONGEST_COLLECTION: Duration = Duration::from_secs(45);
