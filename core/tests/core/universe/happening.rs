//! What can happen in a history, and what it is about.

use super::*;

/// What happens next.
#[derive(Clone, Debug)]
pub enum Happening {
    /// A run, or a watch, begins where none is under way: how, and in which order it reads.
    Begin(usize, How, usize),
    /// A run of each function from its beginning to its end, while nothing else happens.
    CalmRun,
    /// The clock is set back by so many seconds.
    ClockBack(u32),
    /// These hosts fail their health checks.
    Dead(BTreeSet<u8>),
    /// From now on DNS gives these hosts for this name.
    Dns(usize, BTreeSet<u8>),
    /// Targets that drain are gone.
    Drained,
    /// A run goes on by so many requests and replies.
    Go(usize, u8),
    HandDeregister(u8, usize),
    HandRegister(u8, u8, usize),
    /// A process dies, wherever its run is, and with it what it remembers.
    Kill(usize),
    /// Reads of targets and tags lag by so many milliseconds.
    Lag(u64),
    /// What AWS refuses for good.
    NotDeregistrable(BTreeSet<u8>),
    NotRegistrable(BTreeSet<u8>),
    /// Others have so many tags on the target group.
    OthersTags(usize),
    /// Milliseconds pass.
    Pass(u64),
    Quota(usize),
    /// Somebody writes this into a tag of ours, or into all of them, or removes them.
    Tampered(Option<usize>, Option<&'static str>),
    /// Another deployment, of which runs go by this.
    Settings(Ownership, Option<u32>, Option<u32>),
    /// A run goes on until a request of its is answered like this. Or it begins.
    Step(usize, Fault),
    /// The name server of one actor gives these hosts for the first name, whatever others say.
    Told(usize, Option<BTreeSet<u8>>),
    /// AWS can't tell the targets, until it can.
    Unavailable(bool),
}

/// Events in their order, which are shown one in a line.
#[derive(Clone)]
pub struct History(pub Vec<Happening>);

impl fmt::Debug for History {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|event| write!(formatter, "\n    {event:?}"))
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum How {
    DryRun,
    Full,
    /// A run, then a watch of so many seconds, or until answers have stayed the same.
    Watch(u8),
    UntilStable(u64),
}

/// How a request is answered. DNS has failures of its own for them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Fault {
    Denied,
    Failed,
    /// It is done, but the reply gets lost.
    LostReply,
    /// It is done, and no reply ever comes.
    Never,
    #[default]
    None,
    /// So many targets are changed, then a call fails.
    Partial(u8),
    Unavailable,
}

/// What a history is about.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub kind: Kind,
    /// The port of a second name that is bound to the group, if there is one.
    pub second: Option<usize>,
    pub ownership: Ownership,
    pub grace: Option<u32>,
    pub lookups: Option<u32>,
    /// How many caches stand in front of each name, and how long they keep the chain and the addresses, in seconds.
    pub caches: usize,
    pub ttl: u64,
    pub longest_ttl: u64,
    pub seed: u64,
}

impl Setting {
    /// One name, of which nothing is stated.
    pub fn of(kind: Kind) -> Self {
        let ownership = Ownership::Exclusive;
        Self { kind, second: None, ownership, grace: None, lookups: None, caches: 0, ttl: 1, longest_ttl: 1, seed: 7 }
    }

    pub(super) fn answers_in_full(&self) -> bool {
        self.grace == Some(0) || self.lookups == Some(1)
    }
}

/// What the first name is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A load balancer that gives three of its addresses.
    Balancer,
    /// A name of one's own that leads to a reader endpoint.
    Chained,
    Instance,
    Plain,
    Reader,
    /// A name of one's own that gives one of its addresses.
    Rotating,
}

impl Universe {
    /// What does not begin, go on or end a run.
    pub(super) fn apply(&mut self, event: &Happening) {
        let addresses = |hosts: &BTreeSet<u8>| hosts.iter().map(|host| address(*host)).collect();
        match event {
            Happening::ClockBack(seconds) => {
                let passed = u64::try_from((self.now - self.start).as_millis()).unwrap();
                self.behind = (self.behind + u64::from(*seconds) * 1000).min(EPOCH / 100 + passed);
            }
            Happening::Dead(hosts) => self.group.dead = addresses(hosts),
            Happening::Dns(name, hosts) => self.names[name % 3].gives.clone_from(hosts),
            Happening::Drained => self.group.finish_draining(self.now),
            Happening::HandDeregister(host, port) => {
                self.change(NOBODY, |group, now| group.deregister([target(*host, *port)], now));
            }
            Happening::HandRegister(from, number, port) => {
                let targets = (*from..=from + number).map(|host| target(host, *port));
                self.change(NOBODY, |group, now| group.put(targets, now));
            }
            Happening::Lag(milliseconds) => self.lag = Duration::from_millis(*milliseconds),
            Happening::NotDeregistrable(hosts) => self.group.not_deregistrable = addresses(hosts),
            Happening::NotRegistrable(hosts) => self.group.not_registrable = addresses(hosts),
            Happening::OthersTags(number) => {
                let others = FOREIGN.iter().map(ToString::to_string).chain((0..).map(|tag| format!("team:{tag}")));
                let room = MOST_TAGS - self.group.tags().keys().filter(|key| !is_of_others(key)).count();
                let others: Vec<_> = others.take(*number.min(&room)).collect();
                self.group.change_tags(self.now, |tags| {
                    tags.retain(|key, _| !is_of_others(key));
                    tags.extend(others.into_iter().map(|key| (key, "theirs".to_owned())));
                });
                self.is_tampered |= MOST_TAGS - number.min(&room) < ROOM_FOR_ALL;
            }
            Happening::Pass(milliseconds) => self.now += Duration::from_millis(*milliseconds),
            Happening::Quota(targets) => self.group.quota = *targets,
            Happening::Tampered(which, spoilt) => self.tamper(*which, *spoilt),
            Happening::Settings(ownership, grace, lookups) => {
                self.setting = Setting { ownership: *ownership, grace: *grace, lookups: *lookups, ..self.setting };
                self.bound = [0, 1].map(|function| Rc::new(bind(&self.names, &self.setting, function)));
                self.names.iter_mut().for_each(|name| name.set(&self.setting));
                self.claims.iter_mut().for_each(|claims| claims.owned.clear());
                // What another setting left in the tags is not tidied.
                self.is_tampered = true;
            }
            Happening::Told(actor, hosts) => self.told[actor % 3].clone_from(hosts),
            Happening::Unavailable(is_so) => self.is_unavailable = *is_so,
            _ => unreachable!("the stage plays {event:?}"),
        }
    }

    /// Somebody writes this into one of our tags, or into all, or removes them.
    fn tamper(&mut self, which: Option<usize>, spoilt: Option<&str>) {
        let mut chosen: Vec<_> = self.group.tags().keys().filter(|key| !is_of_others(key)).cloned().collect();
        if let (Some(which), false) = (which, chosen.is_empty()) {
            chosen = vec![chosen.swap_remove(which % chosen.len())];
        }
        if !chosen.is_empty() {
            self.group.change_tags(self.now, |tags| {
                tags.retain(|key, _| !chosen.contains(key));
                tags.extend(
                    spoilt.into_iter().flat_map(|spoilt| chosen.iter().map(|key| (key.clone(), spoilt.to_owned()))),
                );
            });
            self.is_tampered = true;
        }
    }
}
