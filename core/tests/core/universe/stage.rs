//! Plays a history: begins runs, lets them take their steps, and kills them.

use std::{
    cell::{Ref, RefCell, RefMut},
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use super::{world::Seen, *};

/// What the runs of a history are played on.
pub struct Stage {
    universe: Rc<RefCell<Universe>>,
    actors: [Actor; 3],
}

/// An execution environment, and the run that it is in.
enum Actor {
    Idle(Box<Memory>),
    Running(Pin<Box<dyn Future<Output = (Memory, GroupReport)>>>),
}

/// Lets a history happen, and then some calm.
pub fn happen(setting: Setting, History(events): &History) {
    let mut stage = Stage::new(setting);
    events.iter().for_each(|event| stage.play(event));
    stage.calm_down();
}

impl Stage {
    pub fn new(setting: Setting) -> Self {
        let universe = Rc::new(RefCell::new(Universe::new(setting)));
        Self { universe, actors: [0, 1, 2].map(|_| Actor::Idle(Box::default())) }
    }

    pub fn now(&self) -> Ref<'_, Universe> {
        self.universe.borrow()
    }

    pub fn change(&self) -> RefMut<'_, Universe> {
        self.universe.borrow_mut()
    }

    pub fn play(&mut self, event: &Happening) {
        match event {
            Happening::Begin(actor, how, order) => self.begin(actor % 3, *how, *order),
            Happening::CalmRun => {
                if !(0..3).any(|actor| self.is_running(actor)) {
                    self.calm_run();
                }
            }
            Happening::Go(actor, steps) => (0..*steps).for_each(|_| self.go(actor % 3)),
            Happening::Kill(actor) => self.kill(actor % 3),
            Happening::Settings(..) => {
                // Runs of the deployment before would leave anything beside it.
                self.finish();
                (0..3).for_each(|actor| self.kill(actor));
                self.change().apply(event);
            }
            Happening::Step(actor, fault) => self.step(actor % 3, *fault),
            event => self.change().apply(event),
        }
    }

    /// Only one function can have a group to itself.
    fn is_on_stage(&self, actor: usize) -> bool {
        actor < 2 || self.now().is_shared()
    }

    pub fn is_running(&self, actor: usize) -> bool {
        matches!(self.actors[actor], Actor::Running(_))
    }

    fn begin(&mut self, actor: usize, how: How, order: usize) {
        if !self.is_on_stage(actor) || self.is_running(actor) {
            return;
        }
        let Actor::Idle(memory) = mem::replace(&mut self.actors[actor], Actor::Idle(Box::default())) else { return };
        self.change().notes[actor].order = order;
        self.actors[actor] = Actor::Running(Box::pin(invocation(Rc::clone(&self.universe), actor, *memory, how)));
    }

    fn step(&mut self, actor: usize, fault: Fault) {
        self.begin(actor, How::Full, 0);
        let before = self.now().requests;
        self.change().fault = fault;
        for _ in 0..8 {
            self.go(actor);
            if self.now().requests > before {
                break;
            }
        }
        self.change().fault = Fault::None;
    }

    /// A run goes on until it lets others act.
    fn go(&mut self, actor: usize) {
        let Actor::Running(running) = &mut self.actors[actor] else { return };
        let requests = {
            let mut universe = self.universe.borrow_mut();
            universe.now = universe.now.max(universe.notes[actor].wakes.unwrap_or(universe.now));
            universe.requests
        };
        if let Poll::Ready((memory, _)) = running.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            self.actors[actor] = Actor::Idle(Box::new(memory));
        }
        if self.now().requests > requests {
            self.now().check_owned();
        }
    }

    /// A run goes on to the next request of its and has the reply, or it comes to its end.
    pub fn request(&mut self, actor: usize) {
        let before = self.now().requests;
        while self.is_running(actor) && self.now().requests == before {
            self.go(actor);
        }
        self.go(actor);
    }

    pub fn kill(&mut self, actor: usize) {
        self.actors[actor] = Actor::Idle(Box::default());
        let notes = &mut self.change().notes[actor];
        *notes = Notes { seen_at: notes.seen_at, ..Notes::default() };
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
            let mut universe = self.change();
            let now = universe.now;
            universe.group.change_tags(now, |tags| tags.retain(|key, _| !is_of_others(key)));
            universe.is_unavailable = false;
            universe.told = [None, None, None];
            universe.lag = Duration::ZERO;
            universe.names.iter_mut().for_each(Name::drop_caches);
            universe.group.quota = 1000;
            universe.group.not_registrable.clear();
            universe.group.not_deregistrable.clear();
        }
        self.calm_run();
        let behind = Duration::from_millis(self.now().behind);
        let until = self.now().now + LONGEST_GRACE + behind;
        // Without a pause after which an absence begins anew.
        while self.now().now < until {
            self.change().now += Duration::from_secs(270);
            self.calm_run();
        }
        // What the other function has let go by now.
        self.calm_run();
        self.now().check_settled();
        // A run that finds all as it should be changes nothing.
        self.calm_run();
        let universe = self.now();
        let notes = &universe.notes[0];
        let is_sure = notes.answer_in_full(universe.bound_to(0)) && !universe.names[0].gives_samples();
        // Of more than there is room for, what is left out may change.
        let is_full = universe.group.tags().len() == MOST_TAGS;
        let is_idle = notes.run.writes == 0 || !is_sure || is_full;
        assert!(is_idle, "rule 8: a run writes that changes nothing: {:?}", universe.group.tags());
    }

    /// A run of each function.
    fn calm_run(&mut self) {
        for actor in [0, 2] {
            if self.is_on_stage(actor) {
                self.alone(actor);
            }
        }
    }

    /// A run of this actor from its beginning to its end.
    pub fn alone(&mut self, actor: usize) -> GroupReport {
        let lag = mem::take(&mut self.change().lag);
        let report = self.invoke(actor, How::Full);
        self.change().lag = lag;
        self.now().check_calm(actor, &report);
        report
    }

    /// The same, whatever goes wrong.
    pub fn invoke(&mut self, actor: usize, how: How) -> GroupReport {
        self.change().is_alone = true;
        self.begin(actor, how, 0);
        let Actor::Running(running) = &mut self.actors[actor] else { unreachable!("it has begun") };
        let (memory, report) = loop {
            if let Poll::Ready(ended) = running.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                break ended;
            }
        };
        self.actors[actor] = Actor::Idle(Box::new(memory));
        self.change().is_alone = false;
        self.now().check_owned();
        report
    }
}

/// An invocation of a function in an execution environment.
async fn invocation(universe: Rc<RefCell<Universe>>, me: usize, mut memory: Memory, how: How) -> (Memory, GroupReport) {
    let function = FUNCTIONS[function_of(me)];
    let (group, began) = {
        let mut universe = universe.borrow_mut();
        let began = universe.clock();
        let (state, _) = State::read(universe.group.tags(), function);
        let notes = &mut universe.notes[me];
        if notes.rotating.is_none() {
            notes.rotating = Some(state.rotating.clone());
            memory.rotating(state);
        }
        (notes.is_running, notes.run, notes.is_dry) = (false, RunNotes::default(), how == How::DryRun);
        notes.writes.clear();
        (Rc::clone(&universe.bound[function_of(me)]), began)
    };
    memory.begin_invocation();
    let allowed = AllowedNetworks::default();
    let facts = Facts { port: PORTS[0], family: IpFamily::V4 };
    let task = Task { group: &group, facts, allowed: &allowed, function };
    let (mode, seconds) = match how {
        How::DryRun => (Mode::DryRun, None),
        How::Full => (Mode::Full, None),
        How::Watch(seconds) => (Mode::Full, Some(seconds.into())),
        How::UntilStable(seconds) => (Mode::Single, Some(seconds)),
    };
    let seconds = seconds.map(Duration::from_secs);
    let cutoff = began.at + seconds.map_or(TIME_OUT, |seconds| seconds + RESERVE);
    let ends_when_stable = matches!(how, How::UntilStable(_));
    let interval = Duration::from_secs(1);
    let watch =
        seconds.map(|seconds| Watch { interval, heeds_ttl: false, ends_when_stable, until: began.at + seconds });
    let mut course = Course::new(Known::new(mode, Answers::new(), began, cutoff), cutoff);
    {
        let world = Seen { universe: Rc::clone(&universe), me, cutoff };
        let mut follow = pin!(course.follow(&world, &task, watch.as_ref(), &mut memory));
        poll_fn(
            |context| if universe.borrow().now >= cutoff { Poll::Ready(()) } else { follow.as_mut().poll(context) },
        )
        .await;
    }
    let now = universe.borrow().clock();
    let report = course.finish(&task, &memory, now, "AWS", false);
    universe.borrow_mut().notes[me].is_running = false;
    (memory, report)
}

/// The longest that a history states, or that a name has by its kind, and some seconds.
const LONGEST_GRACE: Duration = Duration::from_secs(331);
