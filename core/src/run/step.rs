//! What a run is about, and what it asks for.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::{
    binding::Group,
    hostname::Hostname,
    network::AllowedNetworks,
    state::Timestamp,
    tags::Tags,
    target::{Facts, IpFamily, RegisteredTarget, Target},
};

/// What to do next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// The first reads, which go out together: [`super::Run::learned`] for the facts, [`super::Run::answered`], [`super::Run::listed`] and
    /// [`super::Run::tags_read`].
    Read {
        /// Whether the static facts of the group are not known yet. DNS is asked once they are.
        facts: bool,
        /// The hostnames to ask DNS for.
        hostnames: BTreeSet<Hostname>,
        /// Until when DNS may take.
        until: Instant,
        /// Whether the tags are read, too.
        tags: bool,
    },
    /// Write tags; then [`super::Run::tags_added`].
    AddTags(Tags),
    /// Deregister targets; [`super::Run::deregistered_targets`] for those that AWS accepted, then [`super::Run::deregistration_ended`].
    Deregister(BTreeSet<RegisteredTarget>),
    /// List the targets, and read the tags where they are needed; then [`super::Run::listed`] and [`super::Run::tags_read`].
    Reread {
        /// Whether the tags are needed.
        tags: bool,
    },
    /// There is nothing left to do: [`super::Run::tidy`], if that was asked for, and [`super::Run::finish`].
    Done,
    /// Wait so long.
    Pause(Duration),
    /// Read the tags; then [`super::Run::tags_read`].
    ReadTags,
    /// Register targets; [`super::Run::registered_targets`] for those that AWS accepted, then [`super::Run::registration_ended`].
    Register(BTreeSet<Target>),
    /// Remove tags; then [`super::Run::tags_removed`].
    RemoveTags(Vec<String>),
    /// Ask DNS; then [`super::Run::answered`].
    Resolve {
        /// For these hostnames.
        hostnames: BTreeSet<Hostname>,
        /// For addresses of this family.
        family: IpFamily,
        /// Until when it may take.
        until: Instant,
    },
}

impl Step {
    /// Whether it changes something at AWS.
    pub fn is_write(&self) -> bool {
        matches!(self, Self::AddTags(_) | Self::Deregister(_) | Self::Register(_) | Self::RemoveTags(_))
    }
}

/// How thoroughly a target group is reconciled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// As [`Self::Full`], but nothing is written.
    DryRun,
    /// Of names whose answers are samples, several are collected.
    Full,
    /// One answer of each name: a watch goes on to ask anyway.
    Single,
}

/// The time, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// By the one that only goes forward: it tells how old something is.
    pub at: Instant,
    /// By the one on the wall: it tells since when something has been missing.
    pub time: Timestamp,
}

/// What a run is about.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// The target group, and what is bound to it.
    pub group: &'a Group,
    /// Which addresses may become targets.
    pub allowed: &'a AllowedNetworks,
    /// The name of this function, by which it owns targets of `shared` groups.
    pub function: &'a str,
    /// How thorough to be.
    pub mode: Mode,
    /// What never changes about the group, if it is known.
    pub facts: Option<Facts>,
    /// A random number, of which the keys of new tags are made.
    pub nonce: u32,
    /// When what is open is given up.
    pub cutoff: Instant,
}
