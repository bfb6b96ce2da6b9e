//! The strict AWS of the tests, served to other processes: for `conformance/`.
//!
//! It prints its address. Then each line that it reads is a JSON object of what shall be made, and each line that it
//! writes tells what came of it. It ends with its input.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "its caller reads what it prints, and what goes wrong shall end it"
)]

use std::{io, time::Duration};

use nlb_hostname_targets_support::aws::{FakeAws, LoadBalancer, TargetGroup};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
enum Make {
    /// The target group's name: behind a load balancer, and in which family. The answer is its ARN.
    Group { name: String, attached: bool, ipv6: bool },
    /// How many reads at once, and how many a second.
    ReadQuota(u32, f64),
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let aws = FakeAws::start().await;
    aws.asked_by_others();
    println!("{}", aws.url());
    let made = tokio::task::spawn_blocking(move || {
        for line in io::stdin().lines() {
            let line = line.expect("a readable input");
            println!("{}", make(&aws, serde_json::from_str(&line).expect("something to make")));
        }
    });
    made.await.expect("no panic");
}

fn make(aws: &FakeAws, what: Make) -> String {
    match what {
        Make::Group { name, attached, ipv6 } => {
            // The network that conformance/network.py makes elsewhere: the load balancer is in the first zone alone.
            let spec = TargetGroup {
                ipv6,
                vpc_cidrs: &["10.0.0.0/16", "fd00::/56"],
                vpc_subnets: if ipv6 { &["fd00:0:0:1::/64"] } else { &["10.0.1.0/24", "10.0.2.0/24"] },
                initial_for: Duration::from_secs(1),
                needs_listener: true,
                ..TargetGroup::new(&name)
            };
            let arn = aws.create_target_group(spec);
            if attached {
                let load_balancer =
                    aws.create_load_balancer(LoadBalancer { zones: vec!["us-east-1a"], ..LoadBalancer::new(&name) });
                aws.create_listener(&load_balancer, 5432, &[(&arn, None)]);
            }
            arn
        }
        Make::ReadQuota(burst, per_second) => {
            aws.set_read_quota(burst, per_second);
            String::new()
        }
    }
}
