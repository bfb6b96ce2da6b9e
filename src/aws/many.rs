//! Asks ELBv2 about many things with as few calls as possible.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    time::Instant,
};

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
    let read = async |keys: Vec<K>| {
        let mut parts = vec![(describe(&keys).await, keys)];
        // One that was deleted spoils the call for the others beside it.
        if let Some((Err(error), keys)) = parts.first()
            && is_of_one(error)
            && keys.len() > 1
        {
            let keys = keys.clone();
            parts.clear();
            for key in keys {
                parts.push((describe(&[key.clone()]).await, vec![key]));
            }
        }
        parts
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
                    let value = match &mut read {
                        Ok(found) => found.remove(&key).ok_or_else(missing),
                        Err(error) => Err(error.clone()),
                    };
                    (key, value)
                }));
            }
        }
    };
    // What is missing then is known to be.
    drop(timeout_at(until.into(), reading).await);
    all
}

/// Whether a call may fail for one alone of those that it names.
pub(crate) fn is_of_one(error: &ElbError) -> bool {
    matches!(error.kind, ElbErrorKind::Failed | ElbErrorKind::NotFound)
}

/// Target groups, load balancers or resources in a call. AWS documents the number for the last two.
const MOST: usize = 20;
