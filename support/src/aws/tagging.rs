//! What the Resource Groups Tagging API makes of GetResources: it sees target groups alone, and their tags late.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;

use super::request::{Refusal, refuse};

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

impl TagFilter {
    fn lets_through(&self, tags: &BTreeMap<String, String>) -> bool {
        tags.get(&self.key).is_some_and(|value| self.values.is_empty() || self.values.contains(value))
    }
}

/// A page of the target groups, given all of a Region with their tags. A page holds at most so many.
pub(super) fn get_resources(
    body: &[u8],
    groups: &BTreeMap<&String, &BTreeMap<String, String>>,
    page_size: Option<usize>,
) -> Result<String, Refusal> {
    let wrong = |what: &str| refuse(400, "InvalidParameterException", what).breach();
    let request: GetResources =
        serde_json::from_slice(body).map_err(|error| wrong(&format!("not understood: {error}")))?;
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
    let size = asked_for.min(page_size.unwrap_or(100));
    let mut rest = groups.range::<&String, _>(&pagination_token..);
    // Those that the filters leave out count, too: a page may be empty and not the last.
    let page = rest.by_ref().take(size).filter(|(_, tags)| tag_filters.iter().all(|filter| filter.lets_through(tags)));
    let page: Vec<_> = page
        .map(|(arn, tags)| {
            let tags: Vec<_> = tags.iter().map(|(key, value)| json!({"Key": key, "Value": value})).collect();
            json!({"ResourceARN": arn, "Tags": tags})
        })
        .collect();
    // The last page has an empty token.
    let token = rest.next().map_or("", |(arn, _)| arn);
    Ok(json!({"PaginationToken": token, "ResourceTagMappingList": page}).to_string())
}
