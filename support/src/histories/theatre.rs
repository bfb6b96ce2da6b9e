//! Plays a history: begins runs, lets them take their steps, and kills them.

use super::*;

/// Plays the runs of a history.
pub struct Theatre<'w> {
    universe: &'w RefCell<Universe>,
    actors: [Option<Actor<'w>>; 3],
}

impl<'w> Theatre<'w> {
    pub fn new(universe: &'w RefCell<Universe>) -> Self {
        let actors =
            [0, 1, 2].map(|actor| Some(Actor::Idle(Box::new(Environment::new(FUNCTIONS[function_of(actor)])))));
        Self { universe, actors }
    }

    pub fn play(&mut self, event: &Happening) {
        match event {
            Happening::Begin(actor, how, order) => self.begin(actor % 3, *how, *order),
            Happening::CalmRun => {
                if !self.actors.iter().flatten().any(Actor::is_running) {
                    self.calm_run();
                }
            }
            Happening::Go(actor, steps) => (0..*steps).for_each(|_| self.go(actor % 3)),
            Happening::Kill(actor) => self.kill(actor % 3),
            Happening::Settings(..) => {
                // Another deployment. Runs of the one before that go on beside it may leave anything.
                self.finish();
                (0..3).for_each(|actor| self.kill(actor));
                self.universe.borrow_mut().apply(event);
            }
            Happening::Step(actor, fault) => self.step(actor % 3, *fault),
            event => self.universe.borrow_mut().apply(event),
        }
    }

    /// Only one function can have a group to itself.
    fn is_on_stage(&self, actor: usize) -> bool {
        actor < 2 || self.universe.borrow().setting.ownership == Ownership::Shared
    }

    fn begin(&mut self, actor: usize, how: How, order: usize) {
        if !self.is_on_stage(actor) {
            return;
        }
        match self.actors[actor].take() {
            Some(Actor::Idle(environment)) => {
                self.universe.borrow_mut().order = order;
                self.actors[actor] = Some(Actor::Running(invocation(self.universe, actor, *environment, how)));
            }
            running => self.actors[actor] = running,
        }
    }

    fn step(&mut self, actor: usize, fault: Fault) {
        self.begin(actor, How::Full, 0);
        let before = self.universe.borrow().requests;
        for _ in 0..4 {
            self.universe.borrow_mut().fault = fault;
            self.go(actor);
            if self.universe.borrow().requests > before {
                break;
            }
        }
        self.universe.borrow_mut().fault = Fault::None;
    }

    /// A run goes on until it lets others act.
    fn go(&mut self, actor: usize) {
        let Some(Actor::Running(mut running)) = self.actors[actor].take_if(|actor| actor.is_running()) else { return };
        let requests = {
            let mut universe = self.universe.borrow_mut();
            universe.acting = actor;
            universe.now = universe.now.max(universe.wakes[actor]);
            universe.requests
        };
        self.actors[actor] = Some(match running.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(environment) => Actor::Idle(Box::new(environment)),
            Poll::Pending => Actor::Running(running),
        });
        if self.universe.borrow().requests > requests {
            self.universe.borrow().check_owned();
        }
    }

    /// A run goes on to the next request of its and has the reply, or it comes to its end.
    pub fn request(&mut self, actor: usize) {
        let before = self.universe.borrow().requests;
        while self.is_running(actor) && self.universe.borrow().requests == before {
            self.go(actor);
        }
        self.go(actor);
    }

    pub fn is_running(&self, actor: usize) -> bool {
        self.actors[actor].as_ref().is_some_and(Actor::is_running)
    }

    fn kill(&mut self, actor: usize) {
        let mut universe = self.universe.borrow_mut();
        universe.acting = actor;
        if universe.actors[actor].is_active {
            universe.left(false);
        }
        let (seen_at, group) = (universe.actors[actor].seen_at, Rc::clone(&universe.actors[actor].group));
        universe.actors[actor] = Notes::new(seen_at, group);
        self.actors[actor] = Some(Actor::Idle(Box::new(Environment::new(FUNCTIONS[function_of(actor)]))));
    }

    /// All runs come to their end.
    fn finish(&mut self) {
        for actor in 0..3 {
            while self.is_running(actor) {
                self.go(actor);
            }
        }
    }

    /// All faults are over, and what has to go gets the time that it takes.
    pub fn calm_down(&mut self) {
        self.finish();
        {
            let mut universe = self.universe.borrow_mut();
            universe.set_tags(|tags| tags.retain(|key, _| !is_of_others(key)));
            universe.is_unavailable = false;
            universe.told = [None, None, None];
            universe.lag = Duration::ZERO;
            let ttl = Duration::from_secs(universe.setting.ttl);
            universe.names.iter_mut().for_each(|name| name.caches = Caches::new(ttl, 0));
            universe.group.quota = 1000;
            universe.group.not_registrable.clear();
            universe.group.not_deregistrable.clear();
        }
        self.calm_run();
        let grace = self.universe.borrow().actors[0].grace();
        self.universe.borrow_mut().now += grace.max(FLAPPING) + Duration::from_secs(1);
        self.calm_run();
        // What the other function has let go by now.
        self.calm_run();
        self.check_settled();
    }

    fn check_settled(&mut self) {
        let universe = self.universe.borrow();
        let notes = &universe.actors[0];
        let (desired, refused, is_complete) = notes.desired();
        if !is_complete || !notes.answer_in_full() {
            return;
        }
        let registered = universe.group.registered();
        let theirs = match universe.setting.ownership {
            Ownership::Exclusive => BTreeSet::new(),
            Ownership::Shared => universe.actors[2].desired().0,
        };
        let tags = universe.group.tags(universe.now, Duration::ZERO);
        let is_foreign =
            |target: &Target| notes.is_shared() && (universe.is_tampered || !universe.claims[0].owned.contains(target));
        let stale = registered.difference(&desired).filter(|target| {
            !theirs.contains(target)
                && !refused.contains(&target.address)
                && !is_foreign(target)
                && !owned_elsewhere(tags, 0).contains(target)
        });
        let stale: Vec<_> = stale.collect();
        assert!(stale.is_empty(), "nobody's any more: {stale:?}, tags {tags:?}");
        drop(universe);
        // A run that finds all as it should be changes nothing.
        let before = self.universe.borrow().group.tags(self.universe.borrow().now, Duration::ZERO).clone();
        self.calm_run();
        let universe = self.universe.borrow();
        assert_eq!(universe.actors[0].writes_of_run, 0, "rule 8: a run writes that changes nothing: {before:?}");
    }

    fn calm_run(&mut self) {
        for actor in [0, 2] {
            if self.is_on_stage(actor) {
                self.calm_run_of(actor);
            }
        }
    }

    fn calm_run_of(&mut self, actor: usize) {
        let Some(Actor::Idle(mut environment)) = self.actors[actor].take() else { unreachable!("all are idle") };
        let (lag, cutoff, nonce, group) = {
            let mut universe = self.universe.borrow_mut();
            universe.acting = actor;
            universe.is_alone = true;
            universe.order = 0;
            universe.nonce += 1000;
            let lag = mem::take(&mut universe.lag);
            let group = group(&universe.names, universe.setting, function_of(actor));
            (lag, universe.now + TIME_OUT, universe.nonce, group)
        };
        let allowed = AllowedNetworks::default();
        let order = Order { group: &group, allowed: &allowed, mode: Mode::Full, nonce, cutoff };
        environment.memory.begin_invocation();
        self.universe.borrow_mut().actors[actor].writes.clear();
        let report = alone(environment.reconcile(self.universe, order, None));
        let mut universe = self.universe.borrow_mut();
        universe.is_alone = false;
        universe.lag = lag;
        universe.check_calm(&report);
        drop(universe);
        self.actors[actor] = Some(Actor::Idle(environment));
    }
}

impl Actor<'_> {
    fn is_running(&self) -> bool {
        matches!(self, Self::Running(_))
    }
}

/// An invocation of a function, in this environment.
fn invocation<'w>(
    universe: &'w RefCell<Universe>,
    actor: usize,
    mut environment: Environment,
    how: How,
) -> Running<'w> {
    Box::pin(async move {
        let (group, nonce, began) = {
            let mut universe = universe.borrow_mut();
            universe.nonce += 1000;
            universe.actors[actor].writes.clear();
            (group(&universe.names, universe.setting, function_of(actor)), universe.nonce, universe.now)
        };
        let allowed = AllowedNetworks::default();
        let mode = if how == How::DryRun { Mode::DryRun } else { Mode::Full };
        let time_out = match how {
            How::Watch(seconds) => Duration::from_secs(seconds.into()) + RESERVE,
            _ => TIME_OUT,
        };
        let cutoff = began + time_out;
        let order = Order { group: &group, allowed: &allowed, mode, nonce, cutoff };
        environment.memory.begin_invocation();
        let report = environment.reconcile(universe, order, None).await;
        if let How::Watch(_) = how {
            let until = cutoff - RESERVE;
            let interval = Duration::from_secs(1);
            let pace = Pace { interval, heeds_ttl: false, ends_when_stable: false, until };
            environment.watch(universe, order, pace, report).await;
        }
        environment
    })
}
