//! The plan: each row of its table, and each reason to keep a target. Pure.

use std::collections::{BTreeMap, BTreeSet};

use nlb_hostname_targets::{
    plan::{Desired, Hold, HoldReason, Known, Plan},
    policy::{Ownership, Policy},
    sampling::Absence,
    state::{State, Timestamp},
    target::{RegisteredTarget, Target, TargetState},
};
use proptest::{prelude::*, sample::select};

const NOW: Timestamp = Timestamp(1_763_802_000_000);

const GONE: Absence = Absence::Gone { since: NOW };

fn target(host: u8) -> Target {
    Target { address: [10, 0, 0, host].into(), port: 5432.try_into().unwrap() }
}

fn ago(seconds: u64) -> Timestamp {
    Timestamp(NOW.0 - seconds * 1000)
}

/// All that a plan is made from. DNS gives host 1, and hosts 1 and 2 are registered and healthy.
struct Case {
    desired: Desired,
    listed: Vec<(u8, TargetState)>,
    state: Option<State>,
    ownership: Ownership,
    grace: u32,
    absent_since: BTreeMap<Target, Timestamp>,
    last_seen: BTreeMap<Target, Timestamp>,
    absence: Absence,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            desired: Desired { targets: [target(1)].into(), refused: BTreeSet::new(), is_complete: true },
            listed: vec![(1, TargetState::Healthy), (2, TargetState::Healthy)],
            state: Some(State::default()),
            ownership: Ownership::Exclusive,
            grace: 0,
            absent_since: BTreeMap::new(),
            last_seen: BTreeMap::new(),
            absence: GONE,
        }
    }
}

impl Case {
    fn plan(&self) -> Plan {
        let listed: Vec<_> = self
            .listed
            .iter()
            .map(|(host, state)| RegisteredTarget { state: *state, ..RegisteredTarget::new(target(*host)) })
            .collect();
        let policy = Policy { ownership: self.ownership, deregister_after_seconds: self.grace };
        Plan::new(
            &self.desired,
            &Known {
                listed: &listed,
                state: self.state.as_ref(),
                policy,
                absent_since: &self.absent_since,
                last_seen: &self.last_seen,
                absence: |_: &Target| self.absence,
                began: NOW,
                now: NOW,
            },
        )
    }

    /// The hosts that are registered, that are deregistered, and what keeps host 2.
    fn outcome(&self) -> (Vec<u8>, Vec<u8>, Option<Hold>) {
        let plan = self.plan();
        let hosts = |targets: Vec<Target>| {
            targets
                .iter()
                .map(|target| target.address.to_string().rsplit('.').next().unwrap().parse().unwrap())
                .collect()
        };
        let deregister = plan.deregister.iter().map(|shown| shown.target).collect();
        (hosts(plan.register.into_iter().collect()), hosts(deregister), plan.held.get(&target(2)).copied())
    }

    fn held(&self) -> Option<(HoldReason, Option<Timestamp>, Option<Timestamp>)> {
        let (register, deregister, hold) = self.outcome();
        assert!(register.is_empty() && deregister.is_empty(), "{register:?} {deregister:?}");
        hold.map(|hold| (hold.reason, hold.missing_since, hold.until))
    }
}

fn missing(host: u8, since: Timestamp) -> State {
    State { missing: [(target(host), since)].into(), ..State::default() }
}

fn owned(hosts: &[u8]) -> State {
    State { owned: hosts.iter().map(|host| target(*host)).collect(), ..State::default() }
}

const STATES: [TargetState; 5] =
    [TargetState::Healthy, TargetState::Initial, TargetState::Unhealthy, TargetState::Other, TargetState::Draining];

#[test]
fn each_row_of_the_table() {
    for state in STATES {
        let is_draining = state == TargetState::Draining;
        let given = Case { listed: vec![(1, state)], ..Case::default() }.outcome();
        assert_eq!(given.0, if is_draining { vec![1] } else { vec![] }, "DNS gives it, {state:?}");
        assert!(given.1.is_empty() && given.2.is_none(), "DNS gives it, {state:?}");

        let case = Case { listed: vec![(1, TargetState::Healthy), (2, state)], ..Case::default() };
        let settled = Case { absent_since: [(target(2), ago(30))].into(), ..case }.outcome();
        assert_eq!(settled.1, if is_draining { vec![] } else { vec![2] }, "DNS does not, {state:?}");
    }
    assert_eq!(Case { listed: vec![], ..Case::default() }.outcome().0, [1], "it is not listed");
}

#[test]
fn rule_02_a_name_that_did_not_resolve_keeps_what_is_registered() {
    let unresolved = |targets: BTreeSet<Target>| Desired { targets, refused: BTreeSet::new(), is_complete: false };
    let case = Case { desired: unresolved([target(1), target(3)].into()), ..Case::default() };
    let (register, deregister, hold) = case.outcome();
    assert_eq!((register, deregister), (vec![3], vec![]));
    assert_eq!(hold.unwrap().reason, HoldReason::Unresolved);
    // What is known of its absence stays known.
    let case = Case { state: Some(missing(2, ago(500))), grace: 300, ..case };
    assert_eq!(case.plan().state.missing, missing(2, ago(500)).missing);
}

#[test]
fn an_answer_of_nothing_keeps_every_target() {
    let nothing = Desired { targets: BTreeSet::new(), refused: BTreeSet::new(), is_complete: true };
    assert_eq!(Case { desired: nothing, ..Case::default() }.held(), Some((HoldReason::Unresolved, None, None)));
}

#[test]
fn rule_06_an_address_that_may_not_become_a_target_keeps_its_target() {
    let mut case = Case::default();
    case.desired.refused.insert(target(2).address);
    assert_eq!(case.held(), Some((HoldReason::RefusedAddress, None, None)));
}

#[test]
fn rule_08_grace_counts_from_the_time_that_is_remembered() {
    let case = |since| Case { grace: 300, state: Some(since), ..Case::default() };
    // Nothing is: it begins.
    let new = case(State::default());
    assert_eq!(new.held(), Some((HoldReason::Grace, Some(NOW), Some(NOW.plus_seconds(300)))));
    assert_eq!(new.plan().state.missing, missing(2, NOW).missing);
    assert_eq!(new.plan().due(), Some(NOW.plus_seconds(300)));

    let since = ago(299);
    assert_eq!(case(missing(2, since)).held(), Some((HoldReason::Grace, Some(since), Some(since.plus_seconds(300)))));
    assert_eq!(case(missing(2, ago(300))).outcome().1, [2]);
    // DNS gave it since, to a run that could not write that down.
    let seen = Case { last_seen: [(target(2), ago(100))].into(), ..case(missing(2, ago(300))) };
    assert_eq!(seen.held(), Some((HoldReason::Grace, Some(NOW), Some(NOW.plus_seconds(300)))));
    // A time that lies ahead was written before the clock was set back.
    let ahead = case(missing(2, NOW.plus_seconds(500)));
    assert_eq!(ahead.held(), Some((HoldReason::Grace, Some(NOW), Some(NOW.plus_seconds(300)))));
}

#[test]
fn rule_08_state_that_can_not_be_read_keeps_every_target() {
    let case = Case { state: None, grace: 300, ..Case::default() };
    assert_eq!(case.held(), Some((HoldReason::StateUnknown, None, None)));
}

#[test]
fn rule_08_ownership_only_what_is_ours_goes() {
    let shared = |state| Case { ownership: Ownership::Shared, state: Some(state), ..Case::default() };
    assert_eq!(shared(State::default()).held(), Some((HoldReason::Foreign, None, None)));
    let ours = shared(owned(&[2]));
    assert_eq!(ours.outcome().1, [2]);
    // What DNS gives is adopted; what goes is ours until it is gone.
    assert_eq!(ours.plan().state.owned, owned(&[1, 2]).owned);

    let mut elsewhere = owned(&[2]);
    elsewhere.elsewhere.insert(target(2), "another".to_owned());
    let both = shared(elsewhere);
    assert_eq!(both.held(), Some((HoldReason::OwnedElsewhere, Some(NOW), None)));
    assert_eq!(both.plan().state.released, [target(2)].into(), "it is let go of");
}

#[test]
fn rule_15_what_is_thin_or_usual_is_kept_for_want_of_evidence() {
    let case = |absence, since: &[(u8, u64)]| Case {
        absence,
        grace: 300,
        state: Some(State {
            missing: since.iter().map(|(host, seconds)| (target(*host), ago(*seconds))).collect(),
            ..State::default()
        }),
        ..Case::default()
    };
    assert_eq!(case(Absence::Usual, &[]).held(), None, "a sample need not hold every address");
    let thin = Absence::Thin { since: ago(400) };
    assert_eq!(case(thin, &[]).held(), Some((HoldReason::Evidence, Some(ago(400)), None)));
    assert_eq!(case(thin, &[]).plan().state.missing, missing(2, ago(400)).missing, "it is remembered");
    assert_eq!(case(Absence::Thin { since: ago(100) }, &[]).held().unwrap().0, HoldReason::Grace);
    let gone = Absence::Gone { since: ago(400) };
    assert_eq!(case(gone, &[]).outcome().1, [2]);
    // Another name of the group gave it after that.
    let seen = Case { last_seen: [(target(2), ago(100))].into(), ..case(gone, &[]) };
    assert_eq!(seen.held(), Some((HoldReason::Grace, Some(NOW), Some(NOW.plus_seconds(300)))));
    // Another execution environment saw it after that.
    assert_eq!(case(gone, &[(2, 200)]).held(), Some((HoldReason::Grace, Some(ago(200)), Some(NOW.plus_seconds(100)))));
    // An earlier execution environment found out since when; that it is gone, this one has to.
    assert_eq!(case(Absence::Usual, &[(2, 900)]).held(), Some((HoldReason::Evidence, Some(ago(900)), None)));
}

#[test]
fn rule_15_what_aws_finds_unhealthy_needs_its_grace_alone() {
    let case = |state| Case {
        absence: Absence::Usual,
        grace: 300,
        listed: vec![(1, TargetState::Healthy), (2, TargetState::Unhealthy)],
        state: Some(state),
        // Another execution environment may have seen it meanwhile: what this one alone knows does not count.
        absent_since: [(target(2), ago(900))].into(),
        ..Case::default()
    };
    let new = case(State::default());
    assert_eq!(new.held(), Some((HoldReason::Grace, Some(NOW), Some(NOW.plus_seconds(300)))));
    assert_eq!(new.plan().state.missing, missing(2, NOW).missing, "it is remembered");
    assert_eq!(case(missing(2, ago(299))).held().unwrap().0, HoldReason::Grace);
    assert_eq!(case(missing(2, ago(300))).outcome().1, [2]);
}

#[test]
fn rule_16_what_was_registered_moments_ago_goes_after_30_s_in_a_row() {
    let case = |since: Option<u64>| Case {
        listed: vec![(1, TargetState::Healthy), (2, TargetState::Initial)],
        absent_since: since.map(|seconds| (target(2), ago(seconds))).into_iter().collect(),
        ..Case::default()
    };
    assert_eq!(case(None).held(), Some((HoldReason::Initial, Some(NOW), Some(NOW.plus_seconds(30)))));
    assert_eq!(case(Some(29)).held().unwrap().2, Some(NOW.plus_seconds(1)));
    assert_eq!(case(Some(30)).outcome().1, [2]);
}

#[test]
fn what_is_held_later_leaves_the_list_of_what_goes() {
    for reason in [HoldReason::DeregistrationRefused, HoldReason::RegistrationFailed] {
        let mut plan = Case::default().plan();
        plan.hold(reason, |_| true);
        assert!(plan.deregister.is_empty());
        assert_eq!(plan.held[&target(2)].reason, reason);
        assert_eq!(plan.due(), None, "time alone does not change that");
    }
}

proptest! {
    #[test]
    fn whatever_is_known_each_registered_target_is_given_held_or_goes(
        given in prop::collection::btree_set(1..6_u8, 0..4),
        listed in prop::collection::btree_map(1..8_u8, select(&STATES[..]), 0..7),
        ours in prop::collection::btree_set(1..8_u8, 0..7),
        is_complete: bool,
        is_shared: bool,
        has_state: bool,
        grace in select(&[0, 300][..]),
        absence in select(&[GONE, Absence::Thin { since: NOW }, Absence::Usual][..]),
        absent in prop::collection::btree_map(1..8_u8, 0..900_u64, 0..7),
    ) {
        let case = Case {
            desired: Desired {
                targets: given.iter().map(|host| target(*host)).collect(), refused: BTreeSet::new(), is_complete
            },
            listed: listed.into_iter().collect(),
            state: has_state.then(|| owned(&ours.iter().copied().collect::<Vec<_>>())),
            ownership: if is_shared { Ownership::Shared } else { Ownership::Exclusive },
            grace,
            absent_since: absent.iter().map(|(host, seconds)| (target(*host), ago(*seconds))).collect(),
            last_seen: BTreeMap::new(),
            absence,
        };
        let plan = case.plan();
        let going: BTreeSet<_> = plan.deregister.iter().map(|shown| shown.target).collect();
        for (host, state) in &case.listed {
            let shown = target(*host);
            let is_given = given.contains(host);
            prop_assert_eq!(plan.register.contains(&shown), is_given && *state == TargetState::Draining);
            let is_stale = !is_given && *state != TargetState::Draining;
            prop_assert!(is_stale || (!going.contains(&shown) && !plan.held.contains_key(&shown)));
            prop_assert!(!(going.contains(&shown) && plan.held.contains_key(&shown)));
            let is_usual = absence == Absence::Usual && *state != TargetState::Unhealthy;
            prop_assert!(!is_stale || is_usual || going.contains(&shown) || plan.held.contains_key(&shown));
        }
        prop_assert!(going.is_empty() || (is_complete && !given.is_empty() && has_state));
        prop_assert!(!is_shared || going.iter().all(|target| case.state.as_ref().unwrap().owned.contains(target)));
        prop_assert!(case.grace == 0 || going.is_empty(), "no grace is over");
        prop_assert!(is_shared || grace > 0 || plan.state == State::default(), "nothing has to be remembered");
    }
}
