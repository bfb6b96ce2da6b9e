//! The tagging edge: which target groups have a tag of hostnames, as the Resource Groups Tagging API knows it.

use std::{collections::BTreeMap, time::Duration};

use aws_config::SdkConfig;
use aws_sdk_resourcegroupstagging::Client;
use aws_sdk_resourcegroupstagging::config::{Builder, timeout::TimeoutConfig};
use aws_sdk_resourcegroupstagging::types::{ResourceTagMapping, TagFilter};
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::aws::{RetryExpired, elb::elb_error, retry_partition};
use crate::failure::{ElbError, ElbErrorKind, GET_RESOURCES};
use crate::tags::{PREFIX, Tags};
use crate::target::TargetGroupArn;

/// The target groups of the function's own account and Region that have tags.
#[derive(Debug)]
pub(crate) struct Tagging(Client);

impl Tagging {
    pub(crate) fn new(sdk: &SdkConfig) -> Self {
        // A lost reply leaves time for another attempt.
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT_TIMEOUT).build();
        let config = Builder::from(sdk).timeout_config(timeouts).retry_partition(retry_partition());
        let config = config.retry_classifier(RetryExpired);
        Self(Client::from_conf(config.build()))
    }

    /// The target groups that have a tag of hostnames, with all their tags. What was tagged or deleted moments ago may be
    /// listed as it was before.
    /// It fails where a call fails, or the list takes longer than `patience`: a part of it is none.
    pub(crate) async fn tagged(&self, patience: Duration) -> Result<BTreeMap<TargetGroupArn, Tags>, ElbError> {
        let problem = || format!("given up after {:.1} s", patience.as_secs_f64());
        let listed = timeout(patience, self.all_pages()).await;
        listed.unwrap_or_else(|_| Err(failure(ElbErrorKind::TimedOut, &problem())))
    }

    async fn all_pages(&self) -> Result<BTreeMap<TargetGroupArn, Tags>, ElbError> {
        let mut tagged = BTreeMap::new();
        let filter = TagFilter::builder().key(format!("{PREFIX}hostname")).build();
        let request = self.0.get_resources().resource_type_filters("elasticloadbalancing:targetgroup");
        // A page may be empty and not the last.
        let mut pages = request.tag_filters(filter).resources_per_page(LONGEST_PAGE).into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| elb_error(GET_RESOURCES, &error))?;
            let is_last = page.pagination_token().is_none_or(str::is_empty);
            // An empty object is what the SDK makes of an empty reply, too.
            let unreadable = || failure(ElbErrorKind::Failed, "a reply that can't be read: it holds no list");
            tagged.extend(page.resource_tag_mapping_list.ok_or_else(unreadable)?.iter().filter_map(read));
            if !is_last {
                sleep(PAUSE).await;
            }
        }
        Ok(tagged)
    }
}

/// A target group with its tags; `None` where the tag of hostnames is gone by now.
fn read(mapping: &ResourceTagMapping) -> Option<(TargetGroupArn, Tags)> {
    let arn = mapping.resource_arn()?;
    let tags: Tags = mapping.tags().iter().map(|tag| (tag.key.clone(), tag.value.clone())).collect();
    let arn = arn.parse().inspect_err(|error| warn!(error, "GetResources lists what is no target group")).ok()?;
    tags.contains_key(&format!("{PREFIX}hostname")).then_some((arn, tags))
}

fn failure(kind: ElbErrorKind, problem: &str) -> ElbError {
    ElbError { operation: GET_RESOURCES, kind, problem: problem.to_owned() }
}

/// Target groups in a reply, as many as the API allows
/// ([GetResources](https://docs.aws.amazon.com/resourcegroupstagging/latest/APIReference/API_GetResources.html)).
const LONGEST_PAGE: i32 = 100;

/// How long to wait for a reply: less than half of the time that a run waits.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1300);

/// From one page to the next: an account has 15 requests a second
/// ([quotas](https://docs.aws.amazon.com/tag-editor/latest/userguide/reference.html)). So the 3,000 target groups that a
/// Region may have still fit into the time that a run waits.
const PAUSE: Duration = Duration::from_millis(70);
