//! What CloudWatch makes of PutMetricData.

use std::{
    collections::BTreeMap,
    io::Read,
    time::{SystemTime, UNIX_EPOCH},
};

use ciborium::tag;
use flate2::read::GzDecoder;
use serde::Deserialize;

use super::request::{Asked, Protocol, Refusal, refuse};

#[derive(Clone, Debug)]
pub struct Metric {
    pub namespace: String,
    pub name: String,
    pub dimensions: BTreeMap<String, String>,
    pub value: f64,
    pub unit: String,
    /// Which of `calls_of("PutMetricData")` brought it.
    pub call: usize,
}

/// The metrics that a request brings: the one of this number.
pub(super) fn read(asked: &Asked, call: usize) -> Result<Vec<Metric>, Refusal> {
    let wrong = |what: String| refuse(400, "InvalidParameterValue", what).breach();
    let mut body = asked.body.to_vec();
    if asked.gzip {
        body.clear();
        let unpacked = GzDecoder::new(&asked.body[..]).read_to_end(&mut body);
        unpacked.map_err(|error| wrong(format!("not gzip: {error}")))?;
    }
    let request = if asked.protocol == Protocol::Json {
        // Without a time of measurement, which CBOR alone marks as one.
        serde_json::from_slice(&body).map_err(|error| error.to_string())
    } else {
        ciborium::from_reader(&body[..]).map_err(|error| error.to_string())
    };
    let PutMetricData { namespace, metric_data } =
        request.map_err(|error| wrong(format!("not understood: {error}")))?;
    if body.len() > 1_000_000 || !(1..=1000).contains(&metric_data.len()) {
        let (metrics, bytes) = (metric_data.len(), body.len());
        return Err(wrong(format!("{metrics} metrics in {bytes} bytes, 1000 in 1 MB allowed")));
    }
    if !fits(&namespace, 255) || namespace.starts_with(':') || namespace.starts_with("AWS/") {
        return Err(wrong(format!("The value {namespace} for parameter Namespace is invalid.")));
    }
    let metrics = metric_data.into_iter().map(|datum| {
        let name = datum.metric_name.clone();
        let metric = datum.check(&namespace, call);
        metric.map_err(|what| wrong(format!("{what} of metric {name} is invalid")))
    });
    metrics.collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct PutMetricData {
    namespace: String,
    metric_data: Vec<Datum>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Datum {
    metric_name: String,
    #[serde(default)]
    dimensions: Vec<Dimension>,
    timestamp: Option<tag::Required<f64, 1>>,
    value: f64,
    unit: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Dimension {
    name: String,
    value: String,
}

impl Datum {
    /// The metric, or the name of the field that is wrong.
    fn check(self, namespace: &str, call: usize) -> Result<Metric, &'static str> {
        let count = self.dimensions.len();
        let dimensions = self.dimensions.into_iter().map(|dimension| (dimension.name, dimension.value));
        let dimensions: BTreeMap<_, _> = dimensions.collect();
        let is_plain = |(name, value): (&String, &String)| {
            fits(name, 255) && fits(value, 1024) && name.is_ascii() && value.is_ascii()
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
        // Two weeks back and two hours ahead: a time in milliseconds does not pass.
        let accepted = now - 1_209_600.0..now + 7200.0;
        let unit = self.unit.unwrap_or_else(|| "None".to_owned());
        if !fits(&self.metric_name, 255) {
            return Err("MetricName");
        }
        // A name that comes twice is gone from the map.
        if count > 30 || dimensions.len() < count || !dimensions.iter().all(is_plain) {
            return Err("Dimensions");
        }
        if self.timestamp.is_some_and(|time| !accepted.contains(&time.0)) {
            return Err("Timestamp");
        }
        if !self.value.is_finite() || self.value.abs() > 2_f64.powi(360) {
            return Err("Value");
        }
        if !["Seconds", "Milliseconds", "Count", "Percent", "Bytes", "None"].contains(&&*unit) {
            return Err("Unit");
        }
        Ok(Metric {
            namespace: namespace.to_owned(),
            name: self.metric_name,
            dimensions,
            value: self.value,
            unit,
            call,
        })
    }
}

fn fits(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len())
}
