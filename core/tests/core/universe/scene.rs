//! Scenes for one execution environment: each call succeeds at once, unless a test says otherwise. All that is checked of
//! histories is checked of them, too.

use nlb_hostname_targets_core::plan::HoldReason;

use super::*;

pub const OWN: &str = "db.test";
pub const WRITER: &str = "orders.cluster-c9akciq32abc.eu-west-1.rds.amazonaws.com";

/// The last numbers of the targets' addresses.
pub fn hosts(targets: impl IntoIterator<Item = Target>) -> Vec<u8> {
    let last = |address| if let IpAddr::V4(v4) = address { v4.octets()[3] } else { 0 };
    targets.into_iter().map(|target| last(target.address)).collect()
}

/// The hosts that stay although no name gives them, and why.
pub fn held(report: &GroupReport) -> Vec<(u8, HoldReason)> {
    report.held.iter().map(|held| (hosts([held.target])[0], held.reason)).collect()
}

impl Stage {
    /// A group that follows these names, each with the hosts that it gives: all of them, and no cache keeps them. One that
    /// gives none does not resolve.
    pub fn following(names: &[(&'static str, &[u8])]) -> Self {
        let setting = Setting { ttl: 0, longest_ttl: 0, ..Setting::of(Kind::Plain) };
        let stage = Self::new(setting);
        let name = |(name, hosts): &(&str, &[u8])| {
            let mut name = Name::new(&[*name], usize::MAX, &setting);
            name.gives = hosts.iter().copied().collect();
            name
        };
        stage.change().names = names.iter().map(name).collect();
        stage.binding(|group| {
            group.members = names.iter().map(|(name, _)| ((*name).to_owned().try_into().unwrap(), None)).collect();
        });
        stage
    }

    /// One name that gives `given`, and these targets, which are healthy.
    pub fn with(name: &'static str, given: &[u8], registered: &[u8]) -> Self {
        let stage = Self::following(&[(name, given)]);
        stage.healthy(registered);
        stage
    }

    pub fn shared(self) -> Self {
        self.change().setting.ownership = Ownership::Shared;
        self.binding(|group| group.ownership = Ownership::Shared);
        self
    }

    pub fn grace(self, seconds: u32) -> Self {
        self.binding(|group| group.deregister_after_seconds = Some(seconds));
        self
    }

    pub fn lookups(&self, name: &str, lookups: u32) {
        self.binding(|group| group.lookups.extend([(name.to_owned().try_into().unwrap(), lookups)]));
    }

    pub fn binding(&self, change: impl FnOnce(&mut Group)) {
        change(Rc::make_mut(&mut self.change().bound[0]));
    }

    pub fn healthy(&self, numbers: &[u8]) {
        let targets = numbers.iter().map(|number| target(*number, 0));
        self.aws(|group, now| {
            group.put(targets, now);
            group.settle(now);
        });
    }

    pub fn state(&self, number: u8, state: TargetState) {
        let target = target(number, 0);
        self.aws(|group, now| {
            group.put([target], now);
            if state == TargetState::Draining {
                group.deregister([target], now);
            } else if state != TargetState::Initial {
                group.states.insert(target, state);
            }
        });
    }

    /// Lets AWS, or somebody, change the group.
    pub fn aws<T>(&self, change: impl FnOnce(&mut TargetGroup, Instant) -> T) -> T {
        self.change().change(NOBODY, change)
    }

    /// Everything that is `initial` becomes healthy, and what drains is gone.
    pub fn settle(&self) {
        self.aws(TargetGroup::settle);
    }

    pub fn gives(&self, name: &str, hosts: &[u8]) {
        self.name(name, |name| name.gives = hosts.iter().copied().collect());
    }

    pub fn name(&self, name: &str, change: impl FnOnce(&mut Name)) {
        change(self.change().name(name));
    }

    /// Lets a name give so many of its hosts in an answer, for so many seconds.
    pub fn samples(&self, name: &str, most: usize, ttl: u64) {
        let ttl = Duration::from_secs(ttl);
        self.name(name, |name| (name.most, name.ttl, name.longest_ttl) = (most, ttl, ttl));
    }

    /// Lets all requests of this action fail.
    pub fn fails(&self, action: &'static str, fault: Fault) {
        self.change().faults.insert(action, fault);
    }

    pub fn slow_lists(&self, seconds: u64) {
        self.change().slow = Duration::from_secs(seconds);
    }

    pub fn pass(&self, seconds: u64) {
        let until = self.now().now + Duration::from_secs(seconds);
        self.change().pass(until);
    }

    pub fn later(&self, seconds: u64, change: impl FnOnce(&mut Universe) + 'static) {
        let at = self.now().now + Duration::from_secs(seconds);
        self.change().later.push((at, Box::new(change)));
    }

    pub fn gives_later(&self, seconds: u64, name: &'static str, hosts: &'static [u8]) {
        self.later(seconds, |universe| universe.name(name).gives = hosts.iter().copied().collect());
    }

    pub fn targets(&self) -> BTreeSet<Target> {
        self.now().group.registered()
    }

    pub fn registered(&self) -> Vec<u8> {
        hosts(self.targets())
    }

    pub fn tags(&self) -> Tags {
        self.now().group.tags().clone()
    }

    pub fn write_tags(&self, tags: &[(&str, &str)]) {
        let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.change().write_tags(&tags);
    }

    pub fn calls(&self) -> Vec<String> {
        mem::take(&mut self.change().calls)
    }

    /// Those that change targets.
    pub fn changes(&self) -> Vec<String> {
        self.calls().into_iter().filter(|call| call.contains("egister")).collect()
    }

    pub fn run(&mut self) -> GroupReport {
        self.invoke(0, How::Full)
    }

    pub fn dry_run(&mut self) -> GroupReport {
        self.invoke(0, How::DryRun)
    }

    /// A run, and then a watch of so many seconds at most.
    pub fn watch(&mut self, seconds: u64) -> GroupReport {
        self.invoke(0, How::UntilStable(seconds))
    }

    /// Runs each minute until `done`.
    pub fn runs_until(&mut self, most: usize, done: impl Fn(&Self) -> bool) {
        for _ in 0..most {
            if done(self) {
                return;
            }
            self.run();
            self.settle();
            self.pass(60);
        }
        panic!("not done after {most} runs: {:?}", self.targets());
    }
}

impl Universe {
    fn name(&mut self, name: &str) -> &mut Name {
        self.names.iter_mut().find(|it| it.hostname.canonical() == name).unwrap()
    }
}
