//! A request as it is read, the refusal of one, and what a reply is written of.

use std::{collections::BTreeMap, fmt};

use hyper::{body::Bytes, http::request::Parts};

/// A request, read but not yet judged.
#[derive(Default)]
pub(super) struct Asked {
    pub(super) number: u64,
    pub(super) protocol: Protocol,
    pub(super) service: &'static str,
    pub(super) action: String,
    pub(super) arns: Vec<String>,
    pub(super) targets: Vec<SentTarget>,
    pub(super) tags: Vec<(String, String)>,
    pub(super) region: String,
    pub(super) gzip: bool,
    /// The decoded fields of the Query protocol.
    pub(super) fields: BTreeMap<String, String>,
    /// The body of the other two, as it came.
    pub(super) body: Bytes,
    /// What is wrong with the request as a whole.
    pub(super) refusal: Option<Refusal>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SentTarget {
    pub id: String,
    pub port: Option<u16>,
    pub az: Option<String>,
}

/// How a request is written, and its reply.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
pub(super) enum Protocol {
    /// `rpc-v2-cbor`: CloudWatch as the Rust SDK asks it.
    Cbor,
    /// `awsJson`: the Resource Groups Tagging API, and CloudWatch as boto3 asks it.
    Json,
    /// `awsQuery`: ELBv2.
    #[default]
    Query,
}

/// CloudWatch, as it calls itself.
const GRANITE: &str = "GraniteServiceVersion20100801";

impl Asked {
    pub(super) fn read(head: &Parts, body: Bytes) -> Self {
        let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        let mut asked = Self { gzip: header("content-encoding") == Some("gzip"), ..Self::default() };
        if let Some(path) = head.uri.path().strip_prefix("/service/") {
            let operation = path.strip_prefix(GRANITE).and_then(|path| path.strip_prefix("/operation/"));
            asked.protocol = Protocol::Cbor;
            asked.service = "monitoring";
            asked.action = operation.unwrap_or_default().to_owned();
            asked.body = body;
        } else if let Some(target) = header("x-amz-target") {
            let (service, operation) = target.split_once('.').unwrap_or_default();
            asked.protocol = Protocol::Json;
            asked.service = if service == GRANITE { "monitoring" } else { "tagging" };
            asked.action = operation.to_owned();
            asked.body = body;
        } else {
            asked.service = "elasticloadbalancing";
            asked.fields = form_urlencoded::parse(&body).into_owned().collect();
            asked.action = asked.field("Action").unwrap_or_default().to_owned();
            let arn = asked.field("TargetGroupArn").map(str::to_owned);
            let lists = ["TargetGroupArns", "ResourceArns"].map(|name| asked.list(name));
            asked.arns = arn.into_iter().chain(lists.concat()).collect();
            asked.targets = asked.sent_targets();
            asked.tags = asked.sent_tags();
        }
        match header("authorization").and_then(signed_scope) {
            Some((region, service)) if service == asked.service => asked.region = region.to_owned(),
            _ => {
                let message = format!("Request is missing Authentication Token for {}", asked.service);
                asked.refusal = Some(refuse(403, "MissingAuthenticationToken", message).breach());
            }
        }
        asked
    }

    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    pub(super) fn list(&self, name: &str) -> Vec<String> {
        (1..).map_while(|n| self.fields.get(&format!("{name}.member.{n}")).cloned()).collect()
    }

    fn sent_tags(&self) -> Vec<(String, String)> {
        let member = |n: usize| {
            let value = self.field(&format!("Tags.member.{n}.Value")).unwrap_or_default();
            Some((self.field(&format!("Tags.member.{n}.Key"))?.to_owned(), value.to_owned()))
        };
        (1..).map_while(member).collect()
    }

    fn sent_targets(&self) -> Vec<SentTarget> {
        let member = |n: usize| {
            let field = |name| self.field(&format!("Targets.member.{n}.{name}"));
            Some(SentTarget {
                id: field("Id")?.to_owned(),
                // A port that is no port is recorded as 0, which is none either.
                port: field("Port").map(|port| port.parse().unwrap_or(0)),
                az: field("AvailabilityZone").map(str::to_owned),
            })
        };
        (1..).map_while(member).collect()
    }
}

/// Region and service of the SigV4 credential scope. The signature itself is not checked: any credentials do.
fn signed_scope(authorization: &str) -> Option<(&str, &str)> {
    let parts = authorization.strip_prefix("AWS4-HMAC-SHA256 ")?;
    let part = |name| parts.split([',', ' ']).find_map(|part| part.strip_prefix(name));
    part("Signature=")?;
    let scope: Vec<&str> = part("Credential=")?.rsplit('/').collect();
    let ["aws4_request", service, region, _date, _key, ..] = scope[..] else {
        return None;
    };
    Some((region, service))
}

#[derive(Clone)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) message: String,
    /// Whether a well-behaved caller cannot run into it.
    pub(super) breach: bool,
}

impl Refusal {
    pub(super) fn breach(mut self) -> Self {
        self.breach = true;
        self
    }
}

pub(super) fn refuse(status: u16, code: &str, message: impl Into<String>) -> Refusal {
    Refusal { status, code: code.to_owned(), message: message.into(), breach: false }
}

pub(super) fn invalid(message: impl Into<String>) -> Refusal {
    refuse(400, "ValidationError", message)
}

pub(super) fn element(name: &str, content: impl fmt::Display) -> String {
    let content = content.to_string().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("<{name}>{content}</{name}>")
}

/// A list whose members are elements themselves.
pub(super) fn members(name: &str, members: impl Iterator<Item = String>) -> String {
    let members: String = members.map(|member| format!("<member>{member}</member>")).collect();
    format!("<{name}>{members}</{name}>")
}

/// A list of texts.
pub(super) fn texts(name: &str, texts: impl Iterator<Item = impl fmt::Display>) -> String {
    let members: String = texts.map(|text| element("member", text)).collect();
    format!("<{name}>{members}</{name}>")
}
