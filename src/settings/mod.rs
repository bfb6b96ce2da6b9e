//! What the environment and the event ask for.

pub mod environment;
pub mod event;
mod rds_event;

use serde::{Deserialize, Deserializer};

use crate::binding::InvalidJson;

/// Reads JSON into `T`, and says where it went wrong: `source` is what the user calls the whole, an object or an array.
fn from_json<'de, T, D>(source: &str, deserializer: D) -> Result<T, InvalidJson>
where
    T: Deserialize<'de>,
    D: Deserializer<'de, Error = serde_json::Error>,
{
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let at = match error.path().to_string() {
            path if path == "." => source.to_owned(),
            path if path.starts_with('[') => format!("{source}{path}"),
            path => path,
        };
        InvalidJson::new(at, error.into_inner().to_string())
    })
}
