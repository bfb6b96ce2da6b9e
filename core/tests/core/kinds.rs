//! What a hostname belongs to, as names tell.

use nlb_hostname_targets_core::kind::HostnameKind;

#[test]
fn every_partition_has_its_suffix() {
    let suffixes = "amazonaws.com amazonaws.com.cn amazonaws.eu c2s.ic.gov sc2s.sgov.gov cloud.adc-e.uk csp.hci.ic.gov";
    for suffix in suffixes.split(' ') {
        for (name, kind) in [
            ("orders.cluster-ro-c9akciq32abc.us-iso-east-1.rds.", HostnameKind::AuroraReader),
            ("Orders.Cluster-RO-c9akciq32abc.RDS.cn-northwest-1.", HostnameKind::AuroraReader),
            ("orders.cluster-ro-c9akciq32abc.us-iso-east-1.docdb.", HostnameKind::AuroraReader),
            ("orders.cluster-custom-c9akciq32abc.us-iso-east-1.neptune.", HostnameKind::AuroraReader),
            ("orders.proxy-c9akciq32abc.us-iso-east-1.rds.", HostnameKind::RdsProxy),
            ("readonly.endpoint.proxy-c9akciq32abc.us-iso-east-1.rds.", HostnameKind::RdsProxy),
            ("web-0123456789abcdef.elb.us-iso-east-1.", HostnameKind::LoadBalancer),
            ("dualstack.internal-web-1234567890.us-iso-east-1.elb.", HostnameKind::LoadBalancer),
            ("orders.c9akciq32abc.us-iso-east-1.rds.", HostnameKind::Instance),
            ("orders.cluster-c9akciq32abc.us-iso-east-1.docdb.", HostnameKind::Instance),
            ("orders.global-c9akciq32abc.global.rds.", HostnameKind::Instance),
            ("orders.shardgrp-c9akciq32abc.us-iso-east-1.rds.", HostnameKind::Other),
            ("replica.sessions.c9akci.euw1.cache.", HostnameKind::Other),
            ("dwh.c9akciq32abc.us-iso-east-1.redshift.", HostnameKind::Other),
            ("b-1.events.c9akci.c2.kafka.us-iso-east-1.", HostnameKind::Other),
        ] {
            assert_eq!(HostnameKind::of([format!("{name}{suffix}").as_str()]), kind, "{name}{suffix}");
            assert_eq!(HostnameKind::of([format!("{name}{suffix}.").as_str()]), kind, "{name}{suffix}.");
        }
    }
}

#[test]
fn a_look_alike_is_of_no_kind() {
    #[rustfmt::skip]
    let names = [
        "proxy-x.example.com", "x.proxy-abc.example.com",
        "x.cluster-ro-abc.eu-west-1.rds.example.com", "cluster-ro-x.rds.amazonaws.com",
        "cluster-ro-x.c9akciq32abc.eu-west-1.rds.amazonaws.com",
        "cluster-custom-x.c9akciq32abc.eu-west-1.rds.amazonaws.com",
        "proxy-x.c9akciq32abc.eu-west-1.rds.amazonaws.com", "x.cluster-ro-abc.eu-west-1.rds.evil-amazonaws.com",
        "x.cluster-ro-abc.eu-west-1.rdsamazonaws.com", "x.cluster-ro-abc.eu-west-1.rds.amazonaws.com.evil.com",
        "x.cluster-ro-abc.eu-west-1.rds.amazonaws.com.au", "x.cluster-ro-abc.eu-west-1.redshift.amazonaws.com",
        "x.cluster-rot-abc.eu-west-1.rds.amazonaws.com", "x.mycluster-ro-abc.eu-west-1.rds.amazonaws.com",
        "x.eu-west-1.elb.evil-amazonaws.com", "x.elb.example.com",
        "x.notelb.amazonaws.com", "elb.example.com",
        "elasticloadbalancing.eu-west-1.amazonaws.com", "ec2-52-1-2-3.compute-1.amazonaws.com",
        "vpce-0123-abc.elasticloadbalancing.eu-west-1.vpce.amazonaws.com", "amazonaws.com",
        "com",
    ];
    for name in names {
        let kind = HostnameKind::of([name]);
        assert!(matches!(kind, HostnameKind::Instance | HostnameKind::Other), "{name}: {kind:?}");
    }
}

#[test]
fn the_first_kind_on_the_chain_counts() {
    let reader = "x.cluster-ro-abc.eu-west-1.rds.amazonaws.com";
    let load_balancer = "web-0123.elb.eu-west-1.amazonaws.com";
    let writer = "x.cluster-abc.eu-west-1.rds.amazonaws.com";
    let instance = "x.abc.eu-west-1.rds.amazonaws.com";
    for (chain, kind) in [
        (&["db.example.com", reader, load_balancer][..], HostnameKind::AuroraReader),
        (&["db.example.com", load_balancer, reader], HostnameKind::LoadBalancer),
        (&[reader, instance], HostnameKind::AuroraReader),
        (&[writer, instance], HostnameKind::Instance),
        // It is none itself.
        (&["db.example.com", instance], HostnameKind::Other),
        (&[], HostnameKind::Other),
    ] {
        assert_eq!(HostnameKind::of(chain.iter().copied()), kind, "{chain:?}");
    }
}
