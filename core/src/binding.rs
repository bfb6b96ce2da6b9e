//! Bindings, and the target groups that they name.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::{Debug, Display},
    num::NonZeroU16,
    ops::RangeInclusive,
};

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

use crate::{
    hostname::{AllowedHostnames, Hostname},
    policy::Ownership,
    target::TargetGroupArn,
    text::one_line,
};

/// Ties one hostname to one target group.
///
/// The contract's word for word from a JSON object; a field that is not listed is refused by name.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// The name to resolve.
    #[serde(deserialize_with = "hostname")]
    pub hostname: Hostname,
    /// The target group to keep in step with it.
    #[serde(deserialize_with = "target_group_arn")]
    pub target_group_arn: TargetGroupArn,
    /// The port to register addresses on; the target group's own where it is left out.
    #[serde(default, deserialize_with = "port")]
    pub port: Option<NonZeroU16>,
    /// How long, in seconds, an address must be missing from DNS before its target goes.
    #[serde(default, deserialize_with = "seconds")]
    pub deregister_after_seconds: Option<u32>,
    /// Whose targets may be deregistered.
    #[serde(default, deserialize_with = "ownership")]
    pub ownership: Option<Ownership>,
    /// How many answers one run collects.
    #[serde(default, deserialize_with = "lookups")]
    pub lookups: Option<u32>,
}

/// A target group with all the hostnames that are bound to it, which are reconciled together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Group {
    /// The target group.
    pub arn: TargetGroupArn,
    /// Whose targets may be deregistered.
    pub ownership: Ownership,
    /// How long, in seconds, an address must be missing from DNS before its target goes; `None`:
    /// by the kinds of the hostnames.
    pub deregister_after_seconds: Option<u32>,
    /// How many answers a run collects, for hostnames of which a binding says so.
    pub lookups: BTreeMap<Hostname, u32>,
    /// What is bound to it: a hostname, and the port to register its addresses on (`None`: the
    /// target group's own).
    pub members: BTreeSet<(Hostname, Option<NonZeroU16>)>,
}

impl Group {
    /// A target group that nothing is bound to.
    pub fn without_members(arn: TargetGroupArn) -> Self {
        Self {
            arn,
            ownership: Ownership::default(),
            deregister_after_seconds: None,
            lookups: BTreeMap::new(),
            members: BTreeSet::new(),
        }
    }

    /// Groups bindings by the target group that they name, in the order of first mention.
    ///
    /// `source` is what the user calls the array: `BINDINGS` or `bindings`.
    ///
    /// # Errors
    ///
    /// Where two bindings of one group state different values for what belongs to the group.
    pub fn from_bindings(source: &str, bindings: &[Binding]) -> Result<Vec<Self>, InvalidJson> {
        let mut positions = HashMap::new();
        let mut bound: Vec<(&TargetGroupArn, Vec<&Binding>)> = Vec::new();
        for binding in bindings {
            let position = *positions.entry(&binding.target_group_arn).or_insert(bound.len());
            match bound.get_mut(position) {
                Some((_, together)) => together.push(binding),
                None => bound.push((&binding.target_group_arn, vec![binding])),
            }
        }
        bound
            .into_iter()
            .map(|(arn, together)| {
                Ok(Self {
                    arn: arn.clone(),
                    ownership: agreed(source, "ownership", arn, together.iter().map(|binding| binding.ownership))?
                        .unwrap_or_default(),
                    deregister_after_seconds: agreed(
                        source,
                        "deregister_after_seconds",
                        arn,
                        together.iter().map(|binding| binding.deregister_after_seconds),
                    )?,
                    lookups: together
                        .iter()
                        .filter_map(|binding| Some((binding.hostname.clone(), binding.lookups?)))
                        .fold(BTreeMap::new(), |mut lookups, (hostname, number)| {
                            let most = lookups.entry(hostname).or_insert(number);
                            *most = number.max(*most);
                            lookups
                        }),
                    members: together.iter().map(|binding| (binding.hostname.clone(), binding.port)).collect(),
                })
            })
            .collect()
    }

    /// Checks the hostnames of `groups`, which the user gave as `source`, against those that may be bound.
    ///
    /// # Errors
    ///
    /// Where one may not be.
    pub fn check_hostnames(source: &str, groups: &[Self], allowed: &AllowedHostnames) -> Result<(), InvalidJson> {
        let refusal = groups.iter().flat_map(Self::hostnames).find_map(|hostname| allowed.refusal(hostname));
        refusal.map_or(Ok(()), |problem| Err(InvalidJson { at: source.to_owned(), problem }))
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

/// Reads JSON into `T`, and says where it went wrong: `source` is what the user calls the whole.
///
/// # Errors
///
/// Where the JSON is not what `T` accepts.
pub fn from_json<'de, T: Deserialize<'de>>(
    source: &str,
    deserializer: impl Deserializer<'de, Error = serde_json::Error>,
) -> Result<T, InvalidJson> {
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let path = error.path().to_string();
        InvalidJson {
            at: match path.as_str() {
                "." => source.to_owned(),
                path if path.starts_with('[') || source.is_empty() => format!("{source}{path}"),
                path => format!("{source}.{path}"),
            },
            problem: error.into_inner().to_string(),
        }
    })
}

/// The one value that bindings of a target group state, if any does.
fn agreed<T: Copy + Debug + PartialEq>(
    source: &str,
    field: &str,
    arn: &TargetGroupArn,
    stated: impl Iterator<Item = Option<T>>,
) -> Result<Option<T>, InvalidJson> {
    let mut stated = stated.flatten();
    let first = stated.next();
    match stated.find(|other| Some(*other) != first) {
        None => Ok(first),
        Some(_) => Err(InvalidJson {
            at: source.to_owned(),
            problem: format!(
                "bindings of one target_group_arn state different values for {field}, which belongs to the \
                 target group: state it once for {arn}"
            ),
        }),
    }
}

fn hostname<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Hostname, D::Error> {
    let written = text(deserializer, "a DNS name")?;
    written.try_into().map_err(D::Error::custom)
}

fn target_group_arn<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TargetGroupArn, D::Error> {
    let written = text(deserializer, "the ARN of a target group")?;
    written.try_into().map_err(D::Error::custom)
}

fn text<'de, D: Deserializer<'de>>(deserializer: D, accepted: &str) -> Result<String, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(text) => Ok(text),
        other => Err(not(&other, accepted)),
    }
}

fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NonZeroU16>, D::Error> {
    Ok(NonZeroU16::new(integer(deserializer, 1..=u16::MAX)?))
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    integer(deserializer, 0..=u32::MAX).map(Some)
}

fn lookups<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    integer(deserializer, 1..=50).map(Some)
}

fn ownership<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Ownership>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    match value.as_str() {
        Some("exclusive") => Ok(Some(Ownership::Exclusive)),
        Some("shared") => Ok(Some(Ownership::Shared)),
        _ => Err(not(&value, "`exclusive` or `shared`")),
    }
}

/// An integer within bounds; anything else, `null` included, is refused with the bounds named.
pub fn integer<'de, D, N>(deserializer: D, bounds: RangeInclusive<N>) -> Result<N, D::Error>
where
    D: Deserializer<'de>,
    N: Display + PartialOrd + TryFrom<u64>,
{
    let value = Value::deserialize(deserializer)?;
    value
        .as_u64()
        .and_then(|number| N::try_from(number).ok())
        .filter(|number| bounds.contains(number))
        .ok_or_else(|| not(&value, &format!("an integer from {} to {}", bounds.start(), bounds.end())))
}

/// A boolean; anything else, `null` included, is refused.
pub fn boolean<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let value = Value::deserialize(deserializer)?;
    value.as_bool().ok_or_else(|| not(&value, "true or false"))
}

fn not<E: serde::de::Error>(value: &Value, accepted: &str) -> E {
    E::custom(format!("{value} is not {accepted}"))
}
