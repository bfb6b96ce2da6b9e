//! Bindings, and the target groups that they name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::{self, Display};
use std::{num::NonZeroU16, ops::RangeInclusive, str::FromStr};

use serde::de::{Error, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::hostname::{AllowedHostnames, Hostname};
use crate::{failure::one_line, target::TargetGroupArn};

/// Ties one hostname to one target group: the contract's fields, of which an unknown one and `null` are refused.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
#[allow(missing_docs, reason = "docs/reference.md has the fields")]
pub struct Binding {
    pub hostname: Hostname,
    pub target_group_arn: TargetGroupArn,
    #[serde(default, deserialize_with = "port")]
    pub port: Option<NonZeroU16>,
    #[serde(default, deserialize_with = "seconds")]
    pub deregister_after_seconds: Option<u32>,
    #[serde(default, deserialize_with = "ownership")]
    pub ownership: Option<Ownership>,
    #[serde(default, deserialize_with = "lookups")]
    pub lookups: Option<u32>,
}

/// Whose targets may be deregistered.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ownership {
    /// The group holds what DNS says and nothing else.
    #[default]
    Exclusive,
    /// Only targets that this function registered, or whose address DNS gave it, are ever deregistered.
    Shared,
}

impl<'de> Deserialize<'de> for Binding {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Object)
    }
}

/// Lets an object through alone: what serde derives takes an array of the values, too.
struct Object;

impl<'de> Visitor<'de> for Object {
    type Value = Binding;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Binding, A::Error> {
        Binding::deserialize(MapAccessDeserializer::new(map))
    }
}

/// A target group with all the hostnames that are bound to it, which are reconciled together.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Group {
    /// Its ARN.
    pub arn: TargetGroupArn,
    /// As stated, or the default.
    pub ownership: Ownership,
    /// As stated; `None`: by the kinds of the hostnames.
    pub deregister_after_seconds: Option<u32>,
    /// Those that are stated.
    pub lookups: BTreeMap<Hostname, u32>,
    /// Each hostname, and the port to register its addresses on (`None`: the target group's own).
    pub members: BTreeSet<(Hostname, Option<NonZeroU16>)>,
}

impl Group {
    /// A target group that nothing is bound to.
    pub fn without_members(arn: TargetGroupArn) -> Self {
        Self { arn, ..Self::default() }
    }

    /// Groups bindings by the target group that they name, in the order of first mention. `source` is what the user calls
    /// the array.
    ///
    /// # Errors
    ///
    /// Where two bindings of one group state different values for what belongs to the group.
    pub fn from_bindings(source: &str, bindings: &[Binding]) -> Result<Vec<Self>, InvalidJson> {
        let mut groups: Vec<Self> = Vec::new();
        let mut known: HashMap<_, (usize, Option<Ownership>)> = HashMap::new();
        for binding in bindings {
            let arn = &binding.target_group_arn;
            let (position, ownership) = known.entry(arn).or_insert((groups.len(), None));
            if *position == groups.len() {
                groups.push(Self::without_members(arn.clone()));
            }
            let Some(group) = groups.get_mut(*position) else { continue };
            let seconds = &mut group.deregister_after_seconds;
            let disagreement = disagree("ownership", ownership, binding.ownership)
                .or_else(|| disagree("deregister_after_seconds", seconds, binding.deregister_after_seconds));
            if let Some(field) = disagreement {
                let problem = format!(
                    "bindings of one target_group_arn state different values for {field}, which belongs to the target \
                     group: state it once for {arn}"
                );
                return Err(InvalidJson::new(source, problem));
            }
            group.ownership = ownership.unwrap_or_default();
            group.members.insert((binding.hostname.clone(), binding.port));
            if let Some(number) = binding.lookups {
                let most = group.lookups.entry(binding.hostname.clone()).or_insert(number);
                *most = number.max(*most);
            }
        }
        Ok(groups)
    }

    /// An error where a hostname of `groups`, which the user gave as `source`, may not be bound.
    ///
    /// # Errors
    ///
    /// It names the first.
    pub fn check_hostnames(source: &str, groups: &[Self], allowed: &AllowedHostnames) -> Result<(), InvalidJson> {
        let refusal = groups.iter().flat_map(Self::hostnames).find_map(|hostname| allowed.refusal(hostname));
        refusal.map_or(Ok(()), |problem| Err(InvalidJson::new(source, problem)))
    }

    /// The hostnames, each once.
    pub fn hostnames(&self) -> BTreeSet<&Hostname> {
        self.members.iter().map(|(hostname, _)| hostname).collect()
    }

    /// The hostnames, for a message.
    pub fn names(&self) -> String {
        self.hostnames().into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// JSON that was given by the user and is not what is accepted there.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}", one_line(&format!("{at}: {problem}")))]
pub struct InvalidJson {
    /// Where: `BINDINGS[0].port`.
    pub at: String,
    /// What is wrong with it, and what is accepted.
    pub problem: String,
}

impl InvalidJson {
    /// Says that `problem` is wrong `at` a place.
    pub fn new(at: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { at: at.into(), problem: problem.into() }
    }
}

/// Takes in what another binding states of a field, and names it where another value was stated before.
fn disagree<T: Copy + PartialEq>(name: &'static str, stated: &mut Option<T>, other: Option<T>) -> Option<&'static str> {
    *stated = stated.or(other);
    (other.is_some() && *stated != other).then_some(name)
}

fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NonZeroU16>, D::Error> {
    integer(deserializer, PORTS)
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    integer(deserializer, SECONDS)
}

fn lookups<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    integer(deserializer, LOOKUPS)
}

fn ownership<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Ownership>, D::Error> {
    ownership_of(&String::deserialize(deserializer)?).map(Some).map_err(D::Error::custom)
}

/// Reads an ownership. The error says what is accepted.
pub(crate) fn ownership_of(text: &str) -> Result<Ownership, String> {
    match text {
        "exclusive" => Ok(Ownership::Exclusive),
        "shared" => Ok(Ownership::Shared),
        _ => Err(format!("`{text}` is not `exclusive` or `shared`")),
    }
}

/// An integer within bounds; anything else, `null` included, is refused with the bounds named.
pub fn integer<'de, D: Deserializer<'de>, N: Display + FromStr + PartialOrd>(
    deserializer: D,
    bounds: RangeInclusive<N>,
) -> Result<Option<N>, D::Error> {
    let given = Value::deserialize(deserializer)?;
    let read = integer_of(&given.to_string(), &bounds);
    read.map(Some).ok_or_else(|| D::Error::custom(format!("`{given}` is not {}", accepted(&bounds))))
}

/// The same of a text: plain digits only, because `+5` and `5.0` are more likely mistakes than meant.
pub fn integer_of<N: FromStr + PartialOrd>(text: &str, bounds: &RangeInclusive<N>) -> Option<N> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| is_plain && bounds.contains(number))
}

/// What is accepted, for a message.
pub fn accepted<N: Display>(bounds: &RangeInclusive<N>) -> String {
    format!("an integer from {} to {}", bounds.start(), bounds.end())
}

pub(crate) const PORTS: RangeInclusive<NonZeroU16> = NonZeroU16::MIN..=NonZeroU16::MAX;
pub(crate) const SECONDS: RangeInclusive<u32> = 0..=u32::MAX;
pub(crate) const LOOKUPS: RangeInclusive<u32> = 1..=50;
