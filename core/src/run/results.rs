//! What becomes of the results of the steps.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    time::{Duration, Instant},
};

use super::{MOST_REFRESHES, Mode, Now, Phase, Quota, Run};
use crate::{
    answer::Answers,
    failure::{ElbError, ElbErrorKind, Failure},
    hostname::Hostname,
    report::GroupReport,
    sampling::Samples,
    target::{Facts, RegisteredTarget, Target, TargetState},
};

impl Run<'_> {
    /// The static facts of the group came, or could not be read.
    pub fn learned(&mut self, facts: Result<Facts, ElbError>) {
        match facts {
            Ok(facts) => self.facts = Some(facts),
            Err(error) => self.failures.push(error.into()),
        }
    }

    /// The group turned out to be bound no more, or otherwise.
    pub fn withdraw(&mut self) {
        self.report.is_withdrawn = true;
        self.phase = Phase::Ended;
    }

    /// DNS answered, or did not. A name whose answers are samples keeps what it gave; of others, the newest answer is all
    /// that counts.
    pub fn answered(&mut self, answers: Answers, now: Now) {
        let is_refresh = self.next_look.take().is_none() && !self.resolution.answers.is_empty();
        self.refreshes = if is_refresh { self.refreshes + 1 } else { 0 };
        for (hostname, mut answer) in answers {
            self.memory.answered(&hostname, &answer, now.time, now.at);
            if let Some(Ok(earlier)) = self.resolution.answers.get(&hostname)
                && self.memory.is_sample(&hostname)
            {
                match &mut answer {
                    Ok(answer) => answer.addresses.extend(&earlier.addresses),
                    // One answer is enough to go on with, as long as it is not too old.
                    Err(_) if !is_refresh || self.refreshes < MOST_REFRESHES => continue,
                    Err(_) => {}
                }
            }
            self.resolution.answers.insert(hostname, answer);
        }
        // What an answer held is not missing since before it, though it may be asked for again before it counts.
        if let Some(look) = self.look() {
            self.memory.note(&look.desired, [], now.time);
        }
    }

    /// How long DNS took to answer at first.
    pub fn resolved_in(&mut self, took: Duration) {
        self.resolution.took = took;
    }

    /// The targets were listed, asked for at `asked_at`.
    pub fn listed(&mut self, listed: Result<Vec<RegisteredTarget>, ElbError>, asked_at: Instant) {
        self.rereads += 1;
        let is_verification = mem::take(&mut self.unverified);
        match listed {
            Ok(listed) => {
                let listed = self.memory.writes.overlay(listed, asked_at);
                self.report.count(&listed);
                self.listed = Some(listed);
                self.read_at = Some(asked_at);
                if is_verification && self.look().is_some_and(|look| !self.has_all(&look.desired.targets)) {
                    // Whoever deregistered that had another answer.
                    self.next_look = Some((asked_at, self.hostnames()));
                }
            }
            // What another setting left can wait.
            Err(_) if self.is_tidying => self.phase = Phase::Ended,
            Err(error) if error.kind == ElbErrorKind::Unavailable => {
                self.is_unavailable = true;
                self.failures.push(error.into());
            }
            Err(error) => {
                self.failures.push(error.into());
                if self.phase == Phase::Acting {
                    self.phase = Phase::Ended;
                }
            }
        }
    }

    fn has_all(&self, targets: &BTreeSet<Target>) -> bool {
        let registered: BTreeSet<_> = self.registered().copied().collect();
        targets.is_subset(&registered)
    }

    /// What the next change is based on may be asked for as often as what this one was.
    pub(super) fn asks_anew(&mut self) {
        self.rereads = 0;
        self.refreshes = 0;
    }

    /// AWS accepted the registration of these targets.
    pub fn registered_targets(&mut self, targets: &[Target], at: Instant) {
        let listed = self.listed.get_or_insert_default();
        for target in targets {
            let was_draining = listed.iter().any(|shown| shown.target == *target);
            self.memory.writes.registered(*target, was_draining, at);
        }
        listed.retain(|shown| !targets.contains(&shown.target));
        listed.extend(targets.iter().copied().map(RegisteredTarget::new));
        if !self.is_unavailable {
            self.report.count(listed);
        }
        self.report.registered.extend(targets);
        self.report.registrations += targets.len();
    }

    /// The registration ended, with what AWS refused for good, and what went wrong besides.
    pub fn registration_ended(&mut self, refused: BTreeMap<Target, String>, failed: Option<ElbError>) {
        self.asks_anew();
        self.not_registrable.extend(refused);
        match failed {
            Some(error) if error.kind == ElbErrorKind::QuotaReached && self.may_make_room() => {
                self.quota = Quota::Reached(error);
            }
            Some(error) => {
                self.failures.push(error.into());
                self.has_failed = true;
            }
            None => {}
        }
    }

    fn may_make_room(&self) -> bool {
        self.quota != Quota::MadeRoom(self.report.registrations)
    }

    /// AWS accepted the deregistration of these targets.
    pub fn deregistered_targets(&mut self, targets: &[Target], at: Instant) {
        let listed = self.listed.get_or_insert_default();
        for shown in listed.iter_mut().filter(|shown| targets.contains(&shown.target)) {
            self.memory.writes.deregistered(shown, at);
            shown.state = TargetState::Draining;
        }
        self.report.count(listed);
        self.report.deregistered.extend(targets);
        self.report.deregistrations += targets.len();
        self.unverified = true;
    }

    /// The deregistration ended, with what AWS refused for good, and what went wrong besides.
    pub fn deregistration_ended(&mut self, refused: BTreeMap<Target, String>, failed: Option<ElbError>) {
        self.asks_anew();
        self.not_deregistrable.extend(refused);
        if matches!(self.quota, Quota::Reached(_)) {
            self.quota = Quota::MadeRoom(self.report.registrations);
        }
        if let Some(error) = failed {
            self.failures.push(error.into());
            self.has_failed = true;
        }
    }

    /// The time is over. `waiting` names what was waited for; where that is empty and nothing is known yet, the budget
    /// put the group off.
    pub fn cut_off(&mut self, waiting: &str) {
        if self.phase == Phase::Ended || self.is_tidying {
            return;
        }
        let is_begun = self.listed.is_some() || self.is_unavailable || !self.failures.is_empty();
        self.report.is_deferred = waiting.is_empty() && !is_begun;
        if !self.report.is_deferred {
            let what = if waiting.is_empty() { "its turn under ELB_REQUESTS_PER_SECOND" } else { waiting };
            self.failures.push(Failure::Deadline(what.to_owned()));
        }
        self.phase = Phase::Ended;
    }

    /// What the run found and did. What the group is in step with is in the memory.
    pub fn finish(mut self) -> GroupReport {
        if let Some(look) = self.look() {
            if self.registered().any(|target| !look.desired.targets.contains(target)) {
                self.warn_of_evidence();
            }
            if self.listed.is_none() {
                let in_step = self.memory.in_step.as_ref();
                self.report.is_unregistered =
                    in_step.is_none_or(|in_step| !look.desired.targets.is_subset(&in_step.registered));
            }
            self.report.look(look, self.resolution.took);
        } else {
            // What of the group can't be read now may be an address that is not registered.
            self.report.is_unregistered = !self.failures.iter().any(Failure::is_final);
        }
        self.report.failures.append(&mut self.failures);
        self.report.failures.append(&mut self.turned_down);
        let lookups = |hostname: &Hostname| self.memory.samples.get(hostname).map(Samples::lookups);
        self.report.set_policy(self.policy, self.resolution.kinds(), lookups);
        let refused = self.not_registrable.iter().map(|(target, reason)| (target.address, reason.clone()));
        self.report.refused.extend(refused);
        if self.task.mode == Mode::DryRun {
            let answers = mem::take(&mut self.resolution.answers).into_iter();
            self.report.answers =
                answers.filter_map(|(hostname, answer)| Some((hostname, answer.ok()?.addresses))).collect();
        }
        self.report.settle();
        self.report
    }

    /// Says why targets stay for want of evidence.
    fn warn_of_evidence(&mut self) {
        for (hostname, samples) in &self.memory.samples {
            if let Some(warning) = samples.warning() {
                self.report.warn(format!("{hostname}: {warning}"));
            }
        }
    }
}
