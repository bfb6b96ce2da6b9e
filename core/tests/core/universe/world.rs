//! What a run of an actor meets. It stops before each request and again before the reply is handed over, so a future that
//! is dropped is a process that was killed, perhaps between a change and its reply.

use std::{
    cell::RefCell,
    future::{pending, poll_fn},
    task::Poll,
    time::Instant,
};

use super::*;

/// The world as one actor sees it, until its time is over.
pub struct Seen {
    pub universe: Rc<RefCell<Universe>>,
    pub me: usize,
    pub cutoff: Instant,
}

impl World for Seen {
    fn now(&self) -> Now {
        self.universe.borrow().clock()
    }

    async fn turn(&self) {
        pause().await;
        self.with(|universe| universe.notes[self.me].run.has_turn = true);
    }

    async fn resolve(&self, names: &BTreeSet<Hostname>) -> Answers {
        let until = dns_cutoff(self.now().at, self.cutoff);
        let mut answers = Answers::new();
        self.with(|universe| {
            universe.calls.push("DNS".to_owned());
            // A run that begins with a look of a watch asks again for no more than what failed.
            let is_anew = universe.bound_to(self.me).hostnames().len() == names.len();
            universe.notes[self.me].look(is_anew);
        });
        self.pauses(0).await;
        for name in names {
            let answer = match self.with(|universe| universe.ask(self.me, name)) {
                Some(answer) => answer,
                None => {
                    self.sleep(until.saturating_duration_since(self.now().at)).await;
                    Err(DnsFailure::OutOfTime(Duration::from_secs(1)))
                }
            };
            let no_answer = |failure| ResolveError { failures: vec![(([127, 0, 0, 1], 53).into(), failure)] };
            answers.insert(name.clone(), answer.map_err(no_answer));
        }
        pause().await;
        self.with(|universe| universe.answered(self.me, &answers));
        answers
    }

    async fn list(&self) -> (Instant, Result<Vec<RegisteredTarget>, ElbError>) {
        let asked_at = self.now().at;
        let slow = self.with(|universe| {
            universe.calls.push("List".to_owned());
            let Notes { is_running, run, .. } = &mut universe.notes[self.me];
            (run.lists, run.looks) = if *is_running { (run.lists + 1, run.looks) } else { (0, 0) };
            *is_running = true;
            universe.slow
        });
        self.sleep(slow).await;
        self.pauses(1).await;
        let listed = self.reply(|universe| universe.list(self.me)).await;
        self.with(|universe| universe.listed(self.me, &listed, asked_at));
        (asked_at, listed)
    }

    async fn read_tags(&self) -> Result<Tags, ElbError> {
        self.with(|universe| universe.calls.push("ReadTags".to_owned()));
        self.pauses(2).await;
        let read = |universe: &mut Universe| {
            let at = universe.read_at(self.me);
            universe.request("DescribeTags").map(|reply| reply.map(|()| universe.group.tags_at(at).clone()))
        };
        let tags = self.reply(read).await;
        self.with(|universe| {
            let run = &mut universe.notes[self.me].run;
            match &tags {
                Ok(tags) => run.tags = Some(tags.clone()),
                Err(_) => run.has_lost_tags = true,
            }
        });
        tags
    }

    async fn write_tags(&self, changes: &TagChanges) -> Result<(), ElbError> {
        self.with(|universe| {
            universe.calls.push("WriteTags".to_owned());
            universe.check_tags(self.me, changes);
        });
        let mut result = Ok(());
        for adds in [false, true] {
            if result.is_err() || (if adds { changes.add.is_empty() } else { changes.remove.is_empty() }) {
                continue;
            }
            pause().await;
            let write = |universe: &mut Universe| {
                let operation = if adds { "AddTags" } else { "RemoveTags" };
                let fault = universe.fault(operation);
                let reply = universe.request(operation);
                let is_done = matches!(fault, Fault::None | Fault::LostReply | Fault::Never);
                let result = if is_done { universe.write(self.me, changes, adds) } else { Ok(()) };
                reply.map(|reply| reply.and(result))
            };
            result = self.reply(write).await;
        }
        self.with(|universe| universe.notes[self.me].run.has_lost_tags |= result.is_err());
        result
    }

    async fn register(&self, targets: &BTreeSet<Target>) -> Changed {
        self.with(|universe| {
            universe.calls.push(format!("Register {:?}", hosts(targets.iter().copied())));
            universe.check_registration(self.me, targets);
        });
        pause().await;
        let register = |universe: &mut Universe| {
            universe.check_owned_first(self.me, targets);
            universe.change_targets(self.me, "RegisterTargets", targets.clone(), TargetGroup::register).map(Ok)
        };
        let changed = self.reply(register).await.unwrap_or_default();
        self.with(|universe| universe.changed(self.me, &changed, None));
        changed
    }

    async fn deregister(&self, targets: &BTreeSet<RegisteredTarget>) -> Changed {
        self.with(|universe| {
            universe.calls.push(format!("Deregister {:?}", hosts(targets.iter().map(|shown| shown.target))));
            universe.check_deregistration(self.me, targets);
        });
        pause().await;
        let deregister = |universe: &mut Universe| {
            let before = universe.group.registered();
            let going = targets.iter().map(|shown| shown.target).collect();
            let changed = universe.change_targets(self.me, "DeregisterTargets", going, TargetGroup::deregister);
            universe.check_not_empty(self.me, &before);
            changed.map(Ok)
        };
        let changed = self.reply(deregister).await.unwrap_or_default();
        self.with(|universe| universe.changed(self.me, &changed, Some(targets)));
        changed
    }

    async fn sleep(&self, pause: Duration) {
        // The clock on the wall tells whole milliseconds.
        let pause = Duration::from_millis(u64::try_from(pause.as_micros().div_ceil(1000)).unwrap());
        let until = self.now().at + pause;
        poll_fn(|_| {
            if self.now().at >= until {
                return Poll::Ready(());
            }
            self.with(|universe| universe.wait(self.me, until));
            Poll::Pending
        })
        .await;
    }

    fn observe(&self, report: &GroupReport) {
        self.with(|universe| universe.ended(self.me, report));
    }
}

impl Seen {
    fn with<T>(&self, act: impl FnOnce(&mut Universe) -> T) -> T {
        act(&mut self.universe.borrow_mut())
    }

    /// Others may act before a read, and the reads that go out together come to pass in an order of their own.
    async fn pauses(&self, kind: usize) {
        const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [2, 0, 1], [1, 2, 0], [2, 1, 0]];
        let order = self.universe.borrow().notes[self.me].order;
        for _ in 0..=2 * ORDERS[order % 6][kind] {
            pause().await;
        }
    }

    /// Sends a request, and hands over its reply; `None`: none ever comes.
    async fn reply<T>(
        &self,
        request: impl FnOnce(&mut Universe) -> Option<Result<T, ElbError>>,
    ) -> Result<T, ElbError> {
        let Some(reply) = self.with(request) else {
            self.with(|universe| universe.wait(self.me, self.cutoff));
            return pending().await;
        };
        pause().await;
        reply
    }
}

/// Lets others act.
async fn pause() {
    let mut has_paused = false;
    poll_fn(|_| if mem::replace(&mut has_paused, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

impl Universe {
    /// Whoever acts has nothing to do until then: for one who is alone, the time passes.
    fn wait(&mut self, me: usize, until: Instant) {
        if self.is_alone {
            self.pass(until);
        } else {
            self.notes[me].wakes = Some(until);
        }
    }

    /// Of which time a read tells. Who has seen something does not see what was before.
    fn read_at(&mut self, me: usize) -> Instant {
        *self.notes[me].seen_at.insert(self.notes[me].seen_at.max(Some(self.now - self.lag)).unwrap_or(self.now))
    }

    /// What goes wrong with the next request.
    fn fault(&mut self, operation: &'static str) -> Fault {
        if self.fault == Fault::None {
            self.fault = self.faults.get(operation).copied().unwrap_or_default();
        }
        self.fault
    }

    /// What AWS says to a request, but for what it is about; `None`: nothing, ever.
    fn request(&mut self, operation: &'static str) -> Option<Result<(), ElbError>> {
        self.requests += 1;
        self.fault(operation);
        let kind = match mem::take(&mut self.fault) {
            Fault::Never => return None,
            Fault::None => return Some(Ok(())),
            Fault::Denied => ElbErrorKind::Denied,
            Fault::Failed | Fault::Partial(_) => ElbErrorKind::Failed,
            Fault::LostReply => ElbErrorKind::TimedOut,
            Fault::Unavailable => ElbErrorKind::Unavailable,
        };
        Some(Err(elb_error(operation, kind, "no")))
    }

    fn ask(&mut self, me: usize, hostname: &Hostname) -> Option<Result<Answer, DnsFailure>> {
        self.requests += 1;
        let failure = match mem::take(&mut self.fault) {
            Fault::Never => return None,
            Fault::None => None,
            Fault::LostReply => Some(DnsFailure::TimeOut(Duration::from_secs(2))),
            _ => Some(DnsFailure::ServFail),
        };
        let position = self.names.iter().position(|name| name.hostname == *hostname).unwrap();
        let told = self.told[me].as_ref().filter(|_| position == 0);
        let answer = self.names[position].ask(told, self.now, &mut self.rng);
        let out_of_time = DnsFailure::OutOfTime(Duration::from_secs(1));
        let none = if self.is_out_of_time { out_of_time } else { DnsFailure::NoData("A") };
        let failure = failure.or_else(|| answer.addresses.is_empty().then_some(none));
        Some(failure.map_or(Ok(answer), Err))
    }

    fn list(&mut self, me: usize) -> Option<Result<Vec<RegisteredTarget>, ElbError>> {
        let at = self.read_at(me);
        if self.is_unavailable && self.fault == Fault::None {
            self.fault = Fault::Unavailable;
        }
        self.request("DescribeTargetHealth").map(|reply| reply.map(|()| self.group.list(at)))
    }

    fn write(&mut self, me: usize, changes: &TagChanges, adds: bool) -> Result<(), ElbError> {
        if adds {
            return self.group.add_tags(&changes.add, self.now);
        }
        // What has been gone for long is forgotten, and a run beside this one may be about to register it: the next one
        // repairs that.
        let mut others = (0..3).filter(|other| *other != me && function_of(*other) == function_of(me));
        if others.any(|other| self.notes[other].is_running) {
            let removed = changes.remove.iter().map(|key| (key.clone(), String::new())).collect();
            let removed = State::read(&removed, FUNCTIONS[function_of(me)]).0.owned;
            self.claims[function_of(me)].forgotten.extend(removed);
        }
        self.group.change_tags(self.now, |tags| tags.retain(|key, _| !changes.remove.contains(key)));
        Ok(())
    }

    /// Changes targets, or some of them.
    fn change_targets(
        &mut self,
        me: usize,
        operation: &'static str,
        mut targets: BTreeSet<Target>,
        change: impl FnOnce(&mut TargetGroup, BTreeSet<Target>, Instant) -> Changed,
    ) -> Option<Changed> {
        let fault = self.fault(operation);
        let reply = self.request(operation);
        match fault {
            Fault::None | Fault::LostReply | Fault::Never => {}
            Fault::Partial(number) => targets = targets.into_iter().take(number.into()).collect(),
            _ => targets.clear(),
        }
        let changed = self.change(me, |group, now| change(group, targets, now));
        if operation == "RegisterTargets" {
            // Where tags can't be written, what DNS gives is registered without.
            let own = self.state(me).owned;
            let claims = &mut self.claims[function_of(me)];
            claims.owned.extend(changed.accepted.intersection(&(&own - &claims.forgotten)));
        }
        match reply? {
            Ok(()) => Some(changed),
            Err(error) if fault == Fault::LostReply => Some(Changed { failed: Some(error), ..Changed::default() }),
            Err(error) => Some(Changed { failed: changed.failed.or(Some(error)), ..changed }),
        }
    }
}
