//! The state of the small AWS, and which faults a request is in for.

use std::{collections::BTreeMap, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::{
    cloudwatch::Metric,
    fault::{Fault, FaultKind},
    group::{Found, Group, Tags},
    load_balancers::LoadBalancers,
    request::{Asked, SentTarget},
};

#[derive(Default)]
pub(super) struct State {
    pub(super) created: u64,
    arrived: u64,
    pub(super) groups: BTreeMap<String, Group>,
    /// Target groups that are deleted, with their tags, and GetResources lists them until then.
    pub(super) deleted: BTreeMap<String, (Group, Instant)>,
    pub(super) load_balancers: LoadBalancers,
    /// Of target groups and load balancers, where they are not the defaults.
    pub(super) attributes: BTreeMap<(String, String), String>,
    pub(super) calls: Vec<Call>,
    pub(super) metrics: Vec<Metric>,
    pub(super) violations: Vec<String>,
    /// Texts of violations that are none in this test.
    pub(super) tolerated: Vec<String>,
    pub(super) faults: Vec<Fault>,
    /// Whether it is not the function that asks.
    pub(super) asked_by_others: bool,
    pub(super) read_quota: Option<Bucket>,
    pub(super) listing_quota: Option<Bucket>,
    /// How many target groups a page of GetResources holds at most.
    pub(super) listing_page_size: Option<usize>,
    /// How many requests were left without a reply for good.
    pub(super) hanging: watch::Sender<u64>,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Call {
    pub action: String,
    /// The group concerned; the first one where a call names several.
    pub arn: Option<String>,
    pub targets: Vec<SentTarget>,
    pub at: Instant,
    /// The HTTP status of the reply; 0 while there is none, for good after a hang or a reset.
    pub status: u16,
    /// The code of the error that was the reply.
    pub error: Option<String>,
    /// The group as it was when RegisterTargets or DeregisterTargets arrived.
    pub found: Option<Found>,
    pub(super) number: u64,
}

/// What a request is in for.
pub(super) struct Fate {
    pub(super) before: Duration,
    pub(super) after: Duration,
    pub(super) end: Option<FaultKind>,
}

/// A token bucket, as AWS throttles.
pub(super) struct Bucket {
    burst: f64,
    per_second: f64,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    pub(super) fn new(burst: u32, per_second: f64) -> Self {
        Self { burst: burst.into(), per_second, tokens: burst.into(), filled: Instant::now() }
    }

    fn take(&mut self) -> bool {
        let elapsed = self.filled.elapsed().as_secs_f64();
        self.filled = Instant::now();
        self.tokens = (self.tokens + elapsed * self.per_second).min(self.burst);
        let enough = self.tokens >= 1.0;
        self.tokens -= if enough { 1.0 } else { 0.0 };
        enough
    }
}

impl State {
    pub(super) fn arrive(&mut self, asked: &mut Asked) -> Fate {
        self.arrived += 1;
        asked.number = self.arrived;
        let changes_targets = ["DeregisterTargets", "RegisterTargets"].contains(&&*asked.action);
        let group = asked.arns.first().filter(|_| changes_targets).and_then(|arn| self.groups.get(arn));
        self.calls.push(Call {
            action: asked.action.clone(),
            arn: asked.arns.first().cloned(),
            targets: asked.targets.clone(),
            at: Instant::now(),
            status: 0,
            error: None,
            found: group.map(Group::found),
            number: self.arrived,
        });
        let mut fate = Fate { before: Duration::ZERO, after: Duration::ZERO, end: None };
        for fault in &mut self.faults {
            if fault.strikes(asked) {
                match &fault.kind {
                    FaultKind::Latency(latency) => fate.before += *latency,
                    FaultKind::SlowReply(delay) => fate.after += *delay,
                    end => {
                        fate.end = Some(end.clone());
                        break;
                    }
                }
            }
        }
        fate
    }

    /// Whether a quota refuses the request.
    pub(super) fn throttles(&mut self, action: &str) -> bool {
        let quota = match action {
            "GetResources" => self.listing_quota.as_mut(),
            _ if action.starts_with("Describe") => self.read_quota.as_mut(),
            _ => None,
        };
        quota.is_some_and(|quota| !quota.take())
    }

    /// What is deleted may be listed for a while.
    pub(super) fn delete_group(&mut self, arn: &str) {
        if let Some(group) = self.groups.remove(arn) {
            let until = Instant::now() + group.spec.listing_lag;
            self.deleted.insert(arn.to_owned(), (group, until));
        }
    }

    /// The target groups of a Region that are listed, with their tags.
    pub(super) fn listed(&mut self, region: &str) -> BTreeMap<&String, &Tags> {
        let now = Instant::now();
        self.deleted.retain(|_, (_, until)| *until > now);
        let there = self.groups.iter().map(|(arn, group)| (arn, group, group.tags_seen(group.spec.listing_lag)));
        let deleted = self.deleted.iter().map(|(arn, (group, _))| (arn, group, group.tags()));
        let of_region = there.chain(deleted).filter(|(_, group, _)| group.spec.region == region);
        of_region.map(|(arn, _, tags)| (arn, tags)).collect()
    }
}
