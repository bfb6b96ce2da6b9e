//! What the Resource Groups Tagging API makes of GetResources: it sees target groups alone, and their tags late.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::{
    FakeAws,
    elb::{Bucket, Group, State},
    request::{Asked, Refusal, refuse},
};

/// What it knows besides the target groups.
#[derive(Default)]
pub(super) struct Tagging {
    page_size: Option<usize>,
    pub(super) quota: Option<Bucket>,
    /// Target groups that are deleted, and listed until then.
    deleted: BTreeMap<String, (BTreeMap<String, String>, Instant)>,
}

impl FakeAws {
    /// Caps a page of GetResources, 100 target groups unless set. Those that the filters leave out count, too: a page may
    /// be empty and not the last.
    pub fn set_listing_page_size(&self, groups: usize) {
        self.state().tagging.page_size = Some(groups);
    }

    /// Throttles GetResources with a token bucket.
    pub fn set_listing_quota(&self, burst: u32, per_second: f64) {
        self.state().tagging.quota = Some(Bucket::new(burst, per_second));
    }
}

impl State {
    /// What is deleted may be listed for a while.
    pub(super) fn delete_group(&mut self, arn: &str) {
        if let Some(group) = self.groups.remove(arn) {
            let until = Instant::now() + group.spec.listing_lag;
            self.tagging.deleted.insert(arn.to_owned(), (group.tags().clone(), until));
        }
    }

    pub(super) fn get_resources(&mut self, asked: &Asked) -> Result<String, Refusal> {
        let wrong = |what: &str| refuse(400, "InvalidParameterException", what).breach();
        let request: GetResources =
            serde_json::from_slice(&asked.body).map_err(|error| wrong(&format!("not understood: {error}")))?;
        let GetResources { pagination_token, tag_filters, resources_per_page, resource_type_filters } = request;
        let asked_for = resources_per_page.unwrap_or(50);
        if !(1..=100).contains(&asked_for) {
            return Err(wrong("ResourcesPerPage must be from 1 to 100"));
        }
        if tag_filters.is_empty() || resource_type_filters != ["elasticloadbalancing:targetgroup"] {
            return Err(wrong("this caller wants target groups alone, and of those the ones that have a tag"));
        }
        if !pagination_token.is_empty() && !pagination_token.starts_with("arn:") {
            return Err(wrong("The PaginationToken is not one of ours"));
        }
        let now = Instant::now();
        self.tagging.deleted.retain(|_, (_, until)| *until > now);
        let listed = self.groups.iter().map(|(arn, group)| (arn, group.listed_tags()));
        let deleted = self.tagging.deleted.iter().map(|(arn, (tags, _))| (arn, tags));
        let resources: BTreeMap<_, _> = listed
            .chain(deleted)
            .filter(|(arn, _)| arn.split(':').nth(3) == Some(&asked.region) && **arn >= pagination_token)
            .collect();
        let size = asked_for.min(self.tagging.page_size.unwrap_or(100));
        let token = resources.keys().nth(size).map_or("", |arn| arn.as_str());
        let has_all = |tags: &BTreeMap<String, String>| {
            let matches = |filter: &TagFilter| {
                tags.get(&filter.key).is_some_and(|value| filter.values.is_empty() || filter.values.contains(value))
            };
            tag_filters.iter().all(matches)
        };
        let page = resources.iter().take(size).filter(|(_, tags)| has_all(tags)).map(|(arn, tags)| {
            let tags: Vec<_> = tags.iter().map(|(key, value)| json!({"Key": key, "Value": value})).collect();
            json!({"ResourceARN": arn, "Tags": tags})
        });
        let page: Vec<_> = page.collect();
        // The last page has an empty token.
        Ok(json!({"PaginationToken": token, "ResourceTagMappingList": page}).to_string())
    }
}

impl Group {
    fn listed_tags(&self) -> &BTreeMap<String, String> {
        self.tags_seen(self.spec.listing_lag)
    }

    /// How long what the tags were has to be kept.
    pub(super) fn longest_tag_lag(&self) -> Duration {
        self.spec.tag_lag.max(self.spec.listing_lag)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct GetResources {
    #[serde(default)]
    pagination_token: String,
    #[serde(default)]
    tag_filters: Vec<TagFilter>,
    resources_per_page: Option<usize>,
    #[serde(default)]
    resource_type_filters: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct TagFilter {
    key: String,
    #[serde(default)]
    values: Vec<String>,
}
