//! The tags of the target group, as a run knows them: what they say, what is to be written, and what became of it.

use std::{collections::BTreeSet, mem};

use super::{Mode, Now, Phase, Run, Step};
use crate::{
    failure::{ElbError, ElbErrorKind, Failure},
    plan::LAG_SECONDS,
    state::{State, Timestamp},
    tags::{MOST_TAGS, Notation, TagChanges, Tags, takes_room},
    target::Target,
};

/// What the tags of a target group say.
#[derive(Debug)]
pub(super) enum KnownTags {
    /// They were not read.
    Unread,
    /// They could not be read or written.
    Unusable {
        /// The targets that were ours, and not missing for long, when they last could be.
        owned: BTreeSet<Target>,
    },
    /// They were read.
    Known {
        tags: Tags,
        state: State,
        /// To be removed once the others are written.
        remove: Vec<String>,
        /// To be emptied, since they could not be removed: a time that was dropped must not be found again.
        empty: Tags,
        /// Keys that could not be removed. They are empty and do no harm; the next run tries again.
        untidy: BTreeSet<String>,
    },
}

impl KnownTags {
    /// What they say, if that is known.
    pub(super) fn state(&self) -> Option<&State> {
        if let Self::Known { state, .. } = self { Some(state) } else { None }
    }

    /// Whether the tags may forget this target of a `shared` group, were it registered now. That it was ours a moment ago
    /// has to do where the group is empty, which is worse: a run beside this one may be about to forget it.
    pub(super) fn forget(&self, target: &Target, is_empty: bool) -> bool {
        if let Self::Unusable { owned } = self { !(is_empty && owned.contains(target)) } else { false }
    }

    /// What is left to do of a change that has begun.
    pub(super) fn open_step(&self) -> Option<Step> {
        match self {
            Self::Known { empty, .. } if !empty.is_empty() => Some(Step::AddTags(empty.clone())),
            Self::Known { remove, .. } if !remove.is_empty() => Some(Step::RemoveTags(remove.clone())),
            _ => None,
        }
    }

    /// The change that comes first.
    pub(super) fn write(&self, changes: TagChanges) -> Step {
        let TagChanges { add, remove } = changes;
        let Self::Known { tags, .. } = self else { return Step::Done };
        let together: BTreeSet<_> = tags.keys().chain(add.keys()).filter(|key| takes_room(key)).collect();
        // Where there is no room for the new ones beside the old ones, those go first.
        let is_full = !remove.is_empty() && together.len() > MOST_TAGS;
        if add.is_empty() || is_full { Step::RemoveTags(remove) } else { Step::AddTags(add) }
    }
}

impl<'a> Run<'a> {
    /// Whether to read the tags, though no setting asks for it, at the same time as the targets; then [`Self::tidy`]. What
    /// another setting left in them must not be found by a later one. Once is enough.
    pub fn may_tidy(&self) -> bool {
        let is_known = self.memory.is_tidy || self.memory.has_read_in_vain;
        self.task.mode == Mode::Full && !is_known && !self.policy.needs_state()
    }

    /// These tags were read for [`Self::may_tidy`], and there are no more steps. Where all is done, there are some again,
    /// if the tags are not as they should be.
    pub fn tidy(&mut self, tags: Result<Tags, ElbError>) {
        self.memory.has_read_in_vain = !self.is_tidying;
        if self.is_tidying {
            self.tags_read(tags);
            if matches!(self.tags, KnownTags::Known { .. }) {
                self.phase = Phase::Acting;
            }
        }
    }

    /// The tags were read.
    pub fn tags_read(&mut self, tags: Result<Tags, ElbError>) {
        match tags {
            Ok(tags) => {
                let (state, unreadable) = self.notation().read(&tags);
                for warning in unreadable {
                    self.report.warn(warning);
                }
                let untidy = match &mut self.tags {
                    KnownTags::Known { untidy, .. } => mem::take(untidy),
                    _ => BTreeSet::new(),
                };
                self.tags = KnownTags::Known { tags, state, remove: Vec::new(), empty: Tags::new(), untidy };
            }
            // What another setting may have left can wait, and who may not read it need not try again.
            Err(error) if !self.policy.needs_state() => self.memory.is_tidy = error.kind == ElbErrorKind::Denied,
            Err(error) => {
                // Whose the targets are was never known, and what is registered now could not be remembered as ours.
                if self.policy.is_shared() && self.tags.state().is_none() {
                    self.phase = Phase::Ended;
                }
                self.tags_failed(error);
            }
        }
    }

    /// Tags were written.
    pub fn tags_added(&mut self, added: &Tags, result: Result<(), ElbError>) {
        self.asks_anew();
        let notation = self.notation();
        match (result, &mut self.tags) {
            (Ok(()), KnownTags::Known { tags, state, remove, empty, .. }) => {
                self.has_written_tags = true;
                tags.extend(added.clone());
                // They were emptied, so that a run that is killed now leaves no time that was dropped.
                remove.extend(added.iter().filter(|(_, value)| value.is_empty()).map(|(key, _)| key.clone()));
                (*state, _) = notation.read(tags);
                empty.clear();
            }
            (Err(error), _) => self.tags_failed(error),
            _ => {}
        }
    }

    /// Tags were removed.
    pub fn tags_removed(&mut self, keys: &[String], result: Result<(), ElbError>) {
        self.asks_anew();
        let notation = self.notation();
        let KnownTags::Known { tags, state, remove, empty, untidy } = &mut self.tags else { return };
        remove.clear();
        let Err(error) = result else {
            tags.retain(|key, _| !keys.contains(key));
            (*state, _) = notation.read(tags);
            return;
        };
        let says_something = keys.iter().any(|key| tags.get(key).is_some_and(|value| !value.is_empty()));
        if !self.policy.needs_state() {
            self.tags_failed(error);
            return;
        }
        if says_something {
            empty.extend(keys.iter().map(|key| (key.clone(), String::new())));
        } else {
            untidy.extend(keys.iter().cloned());
        }
        self.failures.push(error.into());
    }

    fn tags_failed(&mut self, error: ElbError) {
        if self.policy.needs_state() {
            self.failures.push(error.into());
            let owned = match &self.tags {
                KnownTags::Known { state, .. } => {
                    // Of what was missing for long, a run beside this one forgets whose it is.
                    let is_recent = |since: &Timestamp| self.began < since.plus_seconds(LAG_SECONDS / 2);
                    let is_kept = |target: &&Target| state.missing.get(*target).is_none_or(is_recent);
                    state.owned.difference(&state.released).filter(is_kept).copied().collect()
                }
                KnownTags::Unusable { owned } => owned.clone(),
                KnownTags::Unread => BTreeSet::new(),
            };
            self.tags = KnownTags::Unusable { owned };
        } else {
            // What another setting left can wait for another run.
            self.report.warn(error.to_string());
            self.tags = KnownTags::Unread;
        }
    }

    /// What makes the tags say `state`.
    pub(super) fn tag_changes(&mut self, state: &State, now: Now) -> TagChanges {
        self.failures.retain(|failure| !matches!(failure, Failure::NoRoomInTags { .. }));
        let KnownTags::Known { tags, untidy, .. } = &self.tags else { return TagChanges::default() };
        let mut present = tags.clone();
        present.retain(|key, _| !untidy.contains(key));
        let notation = self.notation();
        let (changes, left_out) = notation.changes(&present, state, now.time, self.task.nonce);
        if left_out > 0 {
            let foreign = notation.foreign_tags(tags);
            self.failures.push(Failure::NoRoomInTags { left_out, foreign, most: MOST_TAGS });
        }
        changes
    }

    pub(super) fn notation(&self) -> Notation<'a> {
        Notation { function: self.task.function, ownership: self.task.group.ownership }
    }
}
