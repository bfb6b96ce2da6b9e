//! A target group as ELBv2 keeps it.

use super::*;

#[derive(Clone, Debug, Default)]
pub struct TargetGroup {
    /// How many targets it may have at most, draining ones among them.
    pub quota: usize,
    /// Addresses that fail their health checks, and what AWS refuses to register and to deregister.
    pub dead: BTreeSet<IpAddr>,
    pub not_registrable: BTreeSet<IpAddr>,
    pub not_deregistrable: BTreeSet<IpAddr>,
    /// What AWS says of a target, whatever else is true of it.
    pub states: BTreeMap<Target, TargetState>,
    members: BTreeMap<Target, Member>,
    tags: Tags,
    /// What members and tags were before a change, and until when.
    before: Vec<(Instant, BTreeMap<Target, Member>, Tags)>,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    is_draining: bool,
    since: Instant,
}

impl TargetGroup {
    pub fn new() -> Self {
        Self { quota: 1000, ..Self::default() }
    }

    /// The targets as they were at this time.
    pub fn list(&self, at: Instant) -> Vec<RegisteredTarget> {
        let listed = self.as_of(at).0.iter().filter_map(|(target, member)| {
            let age = at.saturating_duration_since(member.since);
            let state = match member {
                Member { is_draining: true, .. } if age >= DRAINING_FOR => return None,
                Member { is_draining: true, .. } => TargetState::Draining,
                _ if self.states.contains_key(target) => self.states[target],
                _ if age < INITIAL_FOR => TargetState::Initial,
                _ if self.dead.contains(&target.address) => TargetState::Unhealthy,
                _ => TargetState::Healthy,
            };
            Some(RegisteredTarget { availability_zone: Some(ZONE.to_owned()), state, ..RegisteredTarget::new(*target) })
        });
        listed.collect()
    }

    /// The tags as they are, and as they were at this time.
    pub fn tags(&self) -> &Tags {
        &self.tags
    }

    pub fn tags_at(&self, at: Instant) -> &Tags {
        self.as_of(at).1
    }

    /// What is registered, which draining targets are not.
    pub fn registered(&self) -> BTreeSet<Target> {
        let registered = self.members.iter().filter(|(_, member)| !member.is_draining);
        registered.map(|(target, _)| *target).collect()
    }

    pub fn add_tags(&mut self, tags: &Tags, now: Instant) -> Result<(), ElbError> {
        let is_plain = |c: char| c.is_alphanumeric() || " _.:/=+-@".contains(c);
        for (key, value) in tags {
            let is_short = (1..=127).contains(&key.chars().count()) && value.chars().count() <= 255;
            assert!(is_short && key.chars().chain(value.chars()).all(is_plain), "AWS takes no such tag: {key}={value}");
        }
        if self.tags.len() + tags.keys().filter(|key| !self.tags.contains_key(*key)).count() > MOST_TAGS {
            return Err(elb_error("AddTags", ElbErrorKind::Failed, "TooManyTags"));
        }
        self.change_tags(now, |present| present.extend(tags.clone()));
        Ok(())
    }

    pub fn change_tags(&mut self, now: Instant, change: impl FnOnce(&mut Tags)) {
        self.note(now);
        change(&mut self.tags);
    }

    /// Somebody registers targets who has all the room.
    pub fn put(&mut self, targets: impl IntoIterator<Item = Target>, now: Instant) {
        let refused = mem::take(&mut self.not_registrable);
        let quota = mem::replace(&mut self.quota, 1000);
        self.register(targets, now);
        (self.not_registrable, self.quota) = (refused, quota);
    }

    /// Registers what is not refused, in order, until the quota is reached.
    pub fn register(&mut self, targets: impl IntoIterator<Item = Target>, now: Instant) -> Changed {
        self.note(now);
        let mut changed = Changed::default();
        for target in targets {
            if self.not_registrable.contains(&target.address) {
                changed.refused.insert(target, "InvalidTarget: no".to_owned());
                continue;
            }
            let member = self.members.get(&target);
            if member.is_none_or(|member| member.is_draining) {
                if member.is_none() && self.members.len() >= self.quota {
                    let error = elb_error("RegisterTargets", ElbErrorKind::QuotaReached, "TooManyTargets: no more");
                    changed.failed = Some(error);
                    break;
                }
                self.members.insert(target, Member { is_draining: false, since: now });
            }
            changed.accepted.insert(target);
        }
        changed
    }

    /// Deregisters what is not refused. It succeeds, too, where there is no such target.
    pub fn deregister(&mut self, targets: impl IntoIterator<Item = Target>, now: Instant) -> Changed {
        self.note(now);
        let mut changed = Changed::default();
        for target in targets {
            if self.not_deregistrable.contains(&target.address) {
                changed.refused.insert(target, "InvalidTarget: no".to_owned());
                continue;
            }
            if let Some(member) = self.members.get_mut(&target).filter(|member| !member.is_draining) {
                *member = Member { is_draining: true, since: now };
            }
            changed.accepted.insert(target);
        }
        changed
    }

    /// No target drains any more.
    pub fn finish_draining(&mut self, now: Instant) {
        self.note(now);
        self.members.retain(|_, member| !member.is_draining);
    }

    /// Nor is any new.
    pub fn settle(&mut self, now: Instant) {
        self.finish_draining(now);
        self.members.values_mut().for_each(|member| member.since = member.since.min(now - INITIAL_FOR));
    }

    fn as_of(&self, at: Instant) -> (&BTreeMap<Target, Member>, &Tags) {
        let before = self.before.iter().find(|(until, ..)| *until > at);
        before.map_or((&self.members, &self.tags), |(_, members, tags)| (members, tags))
    }

    /// Keeps what is about to change for reads that lag.
    fn note(&mut self, now: Instant) {
        self.before.retain(|(until, ..)| *until + LONGEST_LAG > now);
        self.before.push((now, self.members.clone(), self.tags.clone()));
        self.members.retain(|_, member| !member.is_draining || now < member.since + DRAINING_FOR);
    }
}

const INITIAL_FOR: Duration = Duration::from_secs(60);
const DRAINING_FOR: Duration = Duration::from_secs(300);
const ZONE: &str = "eu-west-1a";
