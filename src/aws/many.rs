//! Asks ELBv2 about many things with as few calls as possible.

use std::collections::{BTreeMap, HashMap};
use std::{hash::Hash, time::Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::timeout_at;

use crate::failure::{ElbError, ElbErrorKind};

/// Reads what is said of each key, as many in a call as possible. What the time did not suffice for is missing.
pub(crate) async fn read_many<K: Clone + Eq + Hash, V>(
    operation: &'static str,
    keys: impl IntoIterator<Item = K>,
    region: impl Fn(&K) -> &str,
    describe: impl AsyncFn(&[K]) -> Result<HashMap<K, V>, ElbError>,
    until: Instant,
) -> HashMap<K, Result<V, ElbError>> {
    let mut regions: BTreeMap<String, Vec<K>> = BTreeMap::new();
    for key in keys {
        regions.entry(region(&key).to_owned()).or_default().push(key);
    }
    let describe = async |keys: Vec<K>| (describe(&keys).await, keys);
    let read = async |keys: Vec<K>| match describe(keys).await {
        // One that was deleted spoils the call for the others beside it.
        (Err(_), keys) if keys.len() > 1 => {
            let singles = keys.into_iter().map(|key| describe(vec![key]));
            singles.collect::<FuturesUnordered<_>>().collect::<Vec<_>>().await
        }
        read => vec![read],
    };
    let chunks = regions.values().flat_map(|keys| keys.chunks(MOST));
    let mut calls: FuturesUnordered<_> = chunks.map(|keys| read(keys.to_vec())).collect();
    let mut all = HashMap::new();
    let missing =
        || ElbError { operation, kind: ElbErrorKind::NotFound, problem: "the reply does not hold it".to_owned() };
    let reading = async {
        while let Some(parts) = calls.next().await {
            for (mut read, keys) in parts {
                all.extend(keys.into_iter().map(|key| {
                    let value = read.as_mut().map(|found| found.remove(&key).ok_or_else(missing));
                    (key, value.unwrap_or_else(|error| Err(error.clone())))
                }));
            }
        }
    };
    // What is missing then is known to be.
    drop(timeout_at(until.into(), reading).await);
    all
}

/// Target groups, load balancers or resources in a call. AWS documents the number for the last two.
const MOST: usize = 20;
