//! What an execution environment remembers of a target group from run to run. What is lost with it makes a target stay
//! longer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::answer::{Answers, Look};
use crate::clock::{Now, Timestamp};
use crate::run::{Known, Task};
use crate::tags::{State, rotating_name};
use crate::target::{RegisteredTarget, Target, TargetState};
use crate::{binding::Ownership, hostname::Hostname, plan::Plan, samples::Samples};

/// What an execution environment remembers of a target group.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// What was learned of the answers of each hostname.
    samples: BTreeMap<Hostname, Samples>,
    /// Since when registered targets have been missing from all answers in a row, and when all names last answered.
    pub(crate) missing: BTreeMap<Target, Timestamp>,
    complete_at: Timestamp,
    /// What the last list showed as registered; `None`: there was none yet.
    registered: Option<BTreeSet<Target>>,
    /// What AWS accepted within this invocation.
    done: BTreeMap<Target, Done>,
    /// What the tags said when they were last read or written.
    noted: State,
    /// The names that an earlier environment saw rotate.
    rotating: BTreeSet<String>,
    /// What the last run knew that brought or found the group in step.
    in_step: Option<Box<Known>>,
}

/// A change that AWS accepted.
#[derive(Clone, Copy, Debug)]
enum Done {
    /// Of a target in this state.
    Deregistered(Instant, TargetState),
    Registered(Instant),
}

impl Memory {
    /// An invocation begins: what earlier ones wrote is to be seen by now.
    pub fn begin_invocation(&mut self) {
        self.done.clear();
    }

    /// Takes in what a tag of the group says: which names an earlier environment saw rotate.
    pub fn rotating(&mut self, state: State) {
        self.rotating.extend(state.rotating);
    }

    /// A run over these hostnames begins.
    pub fn begin_run(&mut self, task: &Task<'_>) {
        let hostnames = task.group.hostnames();
        // An event may leave a name out that comes back.
        let rotating = self.samples.iter().filter(|(_, samples)| samples.rotates);
        self.rotating.extend(rotating.map(|(hostname, _)| rotating_name(hostname).to_owned()));
        self.samples.retain(|hostname, _| hostnames.contains(hostname));
        for hostname in hostnames {
            let samples = self.samples.entry(hostname.clone()).or_insert_with(|| Samples::new(hostname));
            samples.state(task.group.lookups.get(hostname).copied(), task.group.deregister_after_seconds);
            if self.rotating.contains(rotating_name(hostname)) {
                samples.set_rotating();
            }
        }
    }

    /// Takes in new answers; `all` are the newest ones of all names, or what a run collected of them.
    pub fn answered(&mut self, task: &Task<'_>, new: &Answers, all: &Answers, now: Now) {
        for (hostname, answer) in new {
            if let (Some(samples), Ok(answer)) = (self.samples.get_mut(hostname), answer) {
                samples.add(answer, before(now, answer.at));
            }
        }
        let given = Look::new(task, new);
        self.missing.retain(|target, _| !given.gives(target));
        self.note_missing(task, all, now);
    }

    /// Takes in what a list shows, what AWS accepted since included.
    pub fn listed(&mut self, task: &Task<'_>, shown: &[RegisteredTarget], all: &Answers, now: Now) {
        let registered: BTreeSet<Target> =
            shown.iter().filter(|shown| shown.state.is_registered()).map(|shown| shown.target).collect();
        for target in &registered {
            let is_new = self.registered.as_ref().is_some_and(|before| !before.contains(target));
            if is_new {
                self.missing.remove(target);
            }
            for (hostname, samples) in &mut self.samples {
                if task.ports(hostname).any(|port| port == target.port) {
                    samples.expect(target.address, is_new);
                }
            }
        }
        let addresses: BTreeSet<_> = registered.iter().map(|target| target.address).collect();
        self.samples.values_mut().for_each(|samples| samples.forget(|address| addresses.contains(&address), now.time));
        self.missing.retain(|target, _| registered.contains(target));
        self.registered = Some(registered);
        self.note_missing(task, all, now);
    }

    /// Missing begins with the first answer that lacks it, where every name answered.
    fn note_missing(&mut self, task: &Task<'_>, all: &Answers, now: Now) {
        let look = Look::new(task, all);
        // A time that lies ahead is of a clock that was set back.
        self.missing.values_mut().for_each(|since| *since = now.time.min(*since));
        if look.is_complete {
            // What happened in a long pause nobody saw: another environment may have been given the address.
            if now.time.since(self.complete_at) > LONGEST_GAP {
                self.missing.clear();
            }
            self.complete_at = now.time;
            let registered = self.registered.iter().flatten();
            for target in registered.filter(|target| !look.gives(target)) {
                self.missing.entry(*target).or_insert(now.time);
            }
        }
    }

    /// AWS accepted the registration of these targets.
    pub fn registered(&mut self, targets: &BTreeSet<Target>, at: Instant) {
        self.done.extend(targets.iter().map(|target| (*target, Done::Registered(at))));
        self.registered.iter_mut().for_each(|registered| registered.extend(targets));
    }

    /// AWS accepted the deregistration of these targets, which were shown like this.
    pub fn deregistered<'a>(&mut self, shown: impl IntoIterator<Item = &'a RegisteredTarget>, at: Instant) {
        self.done.extend(shown.into_iter().map(|shown| (shown.target, Done::Deregistered(at, shown.state))));
    }

    /// Rule 17: the targets as they are by a list that was asked for at `asked_at`, and by what AWS accepted. What it
    /// accepted counts as done though a list may not show it yet.
    pub fn overlay(&self, listed: &[RegisteredTarget], asked_at: Instant) -> Vec<RegisteredTarget> {
        let mut shown: BTreeMap<Target, RegisteredTarget> =
            listed.iter().map(|shown| (shown.target, shown.clone())).collect();
        let may_lag = |at| asked_at.saturating_duration_since(at) <= LONGEST_LAG;
        for (target, done) in &self.done {
            match (*done, shown.get_mut(target)) {
                (Done::Registered(at), None) if may_lag(at) => {
                    shown.insert(*target, RegisteredTarget::new(*target));
                }
                // One that a later list shows as draining was deregistered by somebody else.
                (Done::Registered(at), Some(known)) if known.state == TargetState::Draining && asked_at <= at => {
                    *known = RegisteredTarget::new(*target);
                }
                (Done::Deregistered(at, before), Some(known)) if may_lag(at) => {
                    let is_new = known.state == TargetState::Initial && before != TargetState::Initial;
                    if asked_at <= at || !is_new {
                        known.state = TargetState::Draining;
                    }
                }
                _ => {}
            }
        }
        shown.into_values().collect()
    }

    /// What AWS accepted in this invocation, as far as it is registered.
    pub fn accepted(&self) -> Vec<RegisteredTarget> {
        let registered = self.done.iter().filter(|(_, done)| matches!(done, Done::Registered(_)));
        registered.map(|(target, _)| RegisteredTarget::new(*target)).collect()
    }

    /// The names that a target is judged by: those that gave it or, where none did, all whose port it has.
    pub fn judges<'a>(&'a self, task: &Task<'_>, target: &Target) -> Vec<(&'a Hostname, &'a Samples)> {
        let of_port = self.samples.iter().filter(|(hostname, _)| task.ports(hostname).any(|port| port == target.port));
        let (givers, others): (Vec<_>, Vec<_>) =
            of_port.partition(|(_, samples)| samples.given_at(target.address).is_some());
        if givers.is_empty() { others } else { givers }
    }

    /// How long, in seconds, the address of a target must be missing.
    pub fn grace(&self, task: &Task<'_>, target: &Target) -> u32 {
        let judges = || self.judges(task, target);
        let by_names = || judges().into_iter().map(|(_, samples)| samples.grace()).max().unwrap_or_default();
        task.group.deregister_after_seconds.unwrap_or_else(by_names)
    }

    /// The longest of these times, in seconds.
    pub fn longest_grace(&self, task: &Task<'_>) -> u32 {
        let by_names = || self.samples.values().map(Samples::grace).max().unwrap_or_default();
        task.group.deregister_after_seconds.unwrap_or_else(by_names)
    }

    /// Whether anything has to be remembered in tags.
    pub fn needs_state(&self, task: &Task<'_>) -> bool {
        task.group.ownership == Ownership::Shared || self.longest_grace(task) > 0
    }

    /// What was learned of the answers of a hostname.
    pub fn samples(&self, hostname: &Hostname) -> Option<&Samples> {
        self.samples.get(hostname)
    }

    /// The names that were seen to rotate, and whether nobody states how they answer.
    pub fn rotating_names(&self) -> impl Iterator<Item = (&Hostname, bool)> {
        let rotating = self.samples.iter().filter(|(_, samples)| samples.rotates);
        rotating.map(|(hostname, samples)| (hostname, samples.is_unstated()))
    }

    /// Since when a target is missing, where a tag says `noted`. An answer that held it later counts more: the run that saw
    /// it may have been unable to write that down.
    pub fn since(&self, task: &Task<'_>, target: &Target, noted: Option<Timestamp>, now: Timestamp) -> Timestamp {
        let given_at =
            self.judges(task, target).iter().filter_map(|(_, samples)| samples.given_at(target.address)).max();
        let noted = noted.filter(|noted| given_at.is_none_or(|given_at| given_at < *noted));
        // A time that lies ahead was written before the clock was set back.
        noted.or_else(|| self.missing.get(target).copied()).unwrap_or(now).min(now)
    }

    /// Takes in what the tags say now. What somebody removed is counted on from memory, and described in what is returned.
    pub fn noted(&mut self, state: &mut State) -> Vec<String> {
        let registered = self.registered.clone().unwrap_or_default();
        let owned = &(&self.noted.owned - &state.owned) & &registered;
        let is_lost = |target: &&Target| self.missing.contains_key(*target) && !state.missing.contains_key(*target);
        let mut lost: BTreeSet<_> = self.noted.missing.keys().filter(is_lost).copied().collect();
        lost.extend(&owned);
        state.owned.extend(owned);
        self.noted = state.clone();
        let warning = |target| {
            format!(
                "the tag of {target} is gone: where nobody removed it by hand, keep other tools from removing tags under \
                 nlb-hostname-targets:. It is counted on from memory, which ends with this execution environment"
            )
        };
        lost.into_iter().map(warning).collect()
    }

    /// The tags were written, and say this now.
    pub fn wrote(&mut self, state: &State) {
        self.noted.clone_from(state);
    }

    /// A run ended, and knew this of a group that is in step.
    pub fn in_step(&mut self, known: &Known) {
        let mut in_step = known.clone();
        if let Some(Ok((_, listed))) = &mut in_step.listed {
            *listed = known.shown(self);
        }
        self.in_step = Some(Box::new(in_step));
    }

    /// Rule 12: whether newer answers, or the time alone, ask for a change of a group that was in step.
    pub fn is_urgent(&self, task: &Task<'_>, answers: &Answers, now: Now) -> bool {
        let Some(in_step) = &self.in_step else { return false };
        let mut known = Known::clone(in_step);
        known.answers.clone_from(answers);
        Plan::new(task, &known, self, now).change_of_targets(&known).is_some()
    }
}

/// The time on the wall at an earlier instant.
fn before(now: Now, at: Instant) -> Timestamp {
    let ago = u64::try_from(now.at.saturating_duration_since(at).as_millis()).unwrap_or(u64::MAX);
    Timestamp(now.time.0.saturating_sub(ago))
}

/// How long a list may lack a change. Nobody has reported a lag of more than some seconds; a watch looks again
/// after 7 s, and then believes what it sees.
const LONGEST_LAG: Duration = Duration::from_secs(6);

/// How long no look may tell anything without an absence beginning anew.
const LONGEST_GAP: Duration = Duration::from_secs(900);
