//! What a run needs of the world: DNS and one target group. The function has the real ones, the tests a model, and both
//! drive the same run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::tags::{TagChanges, Tags};
use crate::target::{RegisteredTarget, Target};
use crate::{answer::Answers, clock::Now, failure::ElbError, hostname::Hostname, report::GroupReport};

/// All that a run needs of the world. It is bound to one target group.
///
/// A future that is dropped is a process that was killed: the effect may have happened or not.
#[allow(async_fn_in_trait, reason = "nothing is spawned: all runs share one thread")]
pub trait World {
    /// The time.
    fn now(&self) -> Now;

    /// Waits until one more change may go out, and keeps its place for that change.
    async fn turn(&self);

    /// Asks DNS for each of these names once. Each has an entry in what is returned.
    async fn resolve(&self, names: &BTreeSet<Hostname>) -> Answers;

    /// Lists the targets of the group, draining ones among them, and tells when the request went out: it may have waited.
    async fn list(&self) -> (Instant, Result<Vec<RegisteredTarget>, ElbError>);

    /// Reads the tags of the group.
    async fn read_tags(&self) -> Result<Tags, ElbError>;

    /// Removes tags, then adds others.
    async fn write_tags(&self, changes: &TagChanges) -> Result<(), ElbError>;

    /// Registers targets. One that AWS refuses keeps no other out.
    async fn register(&self, targets: &BTreeSet<Target>) -> Changed;

    /// Deregisters targets as they are shown. One that AWS refuses keeps no other in.
    async fn deregister(&self, targets: &BTreeSet<RegisteredTarget>) -> Changed;

    /// Waits.
    async fn sleep(&self, pause: Duration);

    /// Hears of what a run found and did, and of what a look within a watch found. Some of it may be over before the reply.
    fn observe(&self, _report: &GroupReport) {}
}

/// What became of a change of targets.
#[derive(Clone, Debug, Default)]
pub struct Changed {
    /// What AWS accepted.
    pub accepted: BTreeSet<Target>,
    /// What AWS refused for good, each in AWS's words.
    pub refused: BTreeMap<Target, String>,
    /// What else went wrong.
    pub failed: Option<ElbError>,
}
