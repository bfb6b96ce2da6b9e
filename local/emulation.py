"""`python -m local.emulation`: ministack, and what the template needs of AWS beyond it.

- The endpoint service in front of the load balancer, its principals and its notifications, and the calls by which a
  provider looks at them. An endpoint to it has a name, may wait to be accepted, and keeps the service from deletion;
  nothing is sent through it.
- The rule that lets the load balancer into the database's security group.
- An alarm on an expression; it is kept as one on its metric, and its expression is never evaluated.
- A network load balancer is one by its ARN, too, and tells what it makes of traffic of PrivateLink. A listener has the
  attributes that the template gives it, and a target group the targets.
- DescribeTargetHealth tells what a load balancer of local/load_balancer.py reports of a group's targets, where one runs.
- Calls that tag a target group are allowed or refused by the target group that they name, as all others are, and
  conditions and GetResources know the tags of target groups.

It reaches into ministack, so the version is pinned in tools/requirements.in.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from ministack.app import main
from ministack.core import iam_actions
from ministack.core.responses import get_region
from ministack.services import alb, ec2, sns, tagging
from ministack.services.cloudformation import provisioners

from local.cloud import report_of

Properties = dict[str, Any]
Made = tuple[str, dict[str, str]]

ENFORCES = "EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic"

services: dict[str, Properties] = {}
principals: dict[str, list[str]] = {}
notifications: dict[str, Properties] = {}
accepted: set[str] = set()


def create_service(_: str, properties: Properties, __: str) -> Made:
    """As CreateVpcEndpointServiceConfiguration: for network load balancers that exist and have no other service."""
    service = f"vpce-svc-{secrets.token_hex(8)}1"
    check_service(service, properties)
    services[service] = properties
    principals[service] = []
    return service, attributes(service)


def update_service(service: str, _: Properties, properties: Properties, __: str) -> Made:
    """In place, as AWS does it for each property."""
    check_service(service, properties)
    services[service] = properties
    return service, attributes(service)


def attributes(service: str) -> dict[str, str]:
    """What Fn::GetAtt tells: with a private DNS name, the TXT record by which its owner is known."""
    if "PrivateDnsName" not in services[service]:
        return {"ServiceId": service}
    record = {
        "Name": f"_{service[-17:]}",
        "Type": "TXT",
        "Value": f"vpce:{service[-17:]}",
        "State": "pendingVerification",
    }
    return {"ServiceId": service, **{f"PrivateDnsNameConfiguration.{key}": x for key, x in record.items()}}


def check_service(service: str, properties: Properties) -> None:
    """Refuses what AWS refuses."""
    for arn in properties["NetworkLoadBalancerArns"]:
        balancer = alb._lbs.get(arn)
        if balancer is None or balancer["Type"] != "network":
            raise ValueError(f"{arn} is no network load balancer")
        if any(arn in x["NetworkLoadBalancerArns"] for other, x in services.items() if other != service):
            raise ValueError(f"{arn} belongs to another endpoint service")
    regions = properties.get("SupportedRegions")
    if regions is not None and (get_region() not in regions or len(set(regions)) != len(regions)):
        raise ValueError(f"SupportedRegions must hold {get_region()} and no Region twice: {regions}")


def delete_service(service: str, _: Properties) -> None:
    """As DeleteVpcEndpointServiceConfigurations, which endpoints keep from it."""
    if connected(service):
        raise ValueError(f"{service} has existing active VPC Endpoint connections")
    services.pop(service, None)
    principals.pop(service, None)


def connected(service: str) -> list[Properties]:
    """The endpoints to a service."""
    return [x for x in ec2._vpc_endpoints.values() if x["ServiceName"].endswith(f".{service}")]


def endpoint_names(create: Any) -> Any:
    """An endpoint to a service of somebody's, which has a name of its own."""

    def create_endpoint(name: str, properties: Properties, stack: str) -> Made:
        endpoint, attributes = create(name, properties, stack)
        entry = f"{endpoint}-{secrets.token_hex(4)}.{properties['ServiceName'].rpartition('.')[2]}.vpce.amazonaws.com"
        return endpoint, {**attributes, "DnsEntries": [f"Z38GZ743OKFT7T:{entry}"]}

    return create_endpoint


def accept(query: Any) -> Any:
    """AcceptVpcEndpointConnections."""
    accepted.update(ec2._parse_member_list(query, "VpcEndpointId"))
    return answer("AcceptVpcEndpointConnections", "unsuccessful", [])


def set_principals(service: str, arns: list[str]) -> Made:
    """As ModifyVpcEndpointServicePermissions."""
    principals[service] = arns
    return f"{service}-permissions", {}


def notify(identifier: str, properties: Properties) -> Made:
    """As CreateVpcEndpointConnectionNotification, to a topic that the service may publish to."""
    topic = properties["ConnectionNotificationArn"]
    policy = sns._topics[topic]["attributes"].get("Policy", "")
    if "vpce.amazonaws.com" not in str(policy):
        raise ValueError(f"vpce.amazonaws.com may not publish to {topic}")
    notifications[identifier] = properties
    return identifier, {"VPCEndpointConnectionNotificationId": identifier}


def admit(_: str, properties: Properties, __: str) -> Made:
    """As AuthorizeSecurityGroupIngress, which refuses a rule that is there already."""
    group = ec2._security_groups[properties["GroupId"]]["IpPermissions"]
    (rule,) = provisioners._ec2_sg_permissions([properties])
    if any(ec2._strip_descriptions(x) == ec2._strip_descriptions(rule) for x in group):
        raise ValueError("the specified rule already exists")
    group.append(rule)
    return f"sgr-{secrets.token_hex(8)}1", {}


def shut_out(_: str, properties: Properties) -> None:
    """As RevokeSecurityGroupIngress."""
    group = ec2._security_groups.get(properties["GroupId"], {}).get("IpPermissions", [])
    (rule,) = provisioners._ec2_sg_permissions([properties])
    group[:] = [x for x in group if x != rule]


def replace_rule(identifier: str, old: Properties, new: Properties, stack: str) -> Made:
    """Everything but the description replaces the rule."""
    shut_out(identifier, old)
    return admit("", new, stack)


def network_arns(create: Any) -> Any:
    """CreateLoadBalancer, after which a network load balancer has the ARN of one."""

    def create_network(query: Any) -> Any:
        status, headers, body = create(query)
        for arn in [x for x, balancer in list(alb._lbs.items()) if balancer["Type"] == "network" and "/app/" in x]:
            body = body.replace(arn.encode(), rename(arn).encode())
        return status, headers, body

    return create_network


def network_resources(create: Any) -> Any:
    """The same of one that a template makes."""

    def create_network(name: str, properties: Properties, stack: str) -> Made:
        arn, attributes = create(name, properties, stack)
        if properties["Type"] != "network":
            return arn, attributes
        alb._lbs[rename(arn)][ENFORCES] = properties.get(ENFORCES)
        return to_network(arn), {key: to_network(x) if isinstance(x, str) else x for key, x in attributes.items()}

    return create_network


def rename(arn: str) -> str:
    """Gives the load balancer its right ARN."""
    for store in (alb._lbs, alb._lb_attrs, alb._tags):
        if arn in store:
            store[to_network(arn)] = store.pop(arn)
    alb._lbs[to_network(arn)]["LoadBalancerArn"] = to_network(arn)
    return to_network(arn)


def to_network(name: str) -> str:
    """The name of a network load balancer."""
    return name.replace("loadbalancer/app/", "loadbalancer/net/") if "/app/" in name else name.replace("app/", "net/")


def enforcement(xml: Any) -> Any:
    """How a load balancer is described: with what it makes of traffic of PrivateLink, if it says so."""

    def with_enforcement(balancer: Properties) -> str:
        described: str = xml(balancer)
        found = f"<{ENFORCES}>{balancer[ENFORCES]}</{ENFORCES}>" if balancer.get(ENFORCES) else ""
        return described.replace("<SecurityGroups>", found + "<SecurityGroups>", 1)

    return with_enforcement


def listener_attributes(create: Any) -> Any:
    """A listener that a template makes, with the attributes that it states."""

    def create_listener(name: str, properties: Properties, stack: str) -> Made:
        arn, attributes = create(name, properties, stack)
        alb._listener_attrs[arn] = [dict(x) for x in properties.get("ListenerAttributes", [])]
        return arn, attributes

    return create_listener


def targets(create: Any) -> Any:
    """A target group that a template makes, with the targets that it states."""

    def create_group(name: str, properties: Properties, stack: str) -> Made:
        arn, attributes = create(name, properties, stack)
        alb._targets[arn] = [{"Port": properties["Port"], **x} for x in properties.get("Targets", [])]
        return arn, attributes

    return create_group


def reported_health(describe: Any) -> Any:
    """DescribeTargetHealth; where a load balancer runs, with the health that it reports.

    What it has not seen yet is `initial`, and what it drains is listed until it is gone.
    """

    def with_health(query: Any) -> Any:
        arn = alb._p(query, "TargetGroupArn")
        report = report_of(Path(os.environ["HEALTH_REPORTS"]), arn) if arn in alb._tgs else None
        if report is None or not report.exists():
            return describe(query)
        states = json.loads(report.read_text())
        draining = {target: state for target, state in states.items() if state[0] == "draining"}
        registered = {f"{x['Id']}:{x.get('Port', alb._tgs[arn]['Port'])}" for x in alb._targets[arn]}
        fresh = ["initial", "Elb.RegistrationInProgress"]
        found = draining | {x: fresh if x in draining else states.get(x, fresh) for x in registered}
        return alb._xml(
            200, "DescribeTargetHealth", f"<TargetHealthDescriptions>{members(found)}</TargetHealthDescriptions>"
        )

    return with_health


def members(states: dict[str, list[str]]) -> str:
    """Targets with their state and its reason."""
    return "".join(
        f"<member><Target><Id>{target.rsplit(':', 1)[0]}</Id><Port>{target.rsplit(':', 1)[1]}</Port></Target>"
        f"<TargetHealth><State>{state}</State>{f'<Reason>{reason}</Reason>' if reason else ''}</TargetHealth></member>"
        for target, (state, reason) in states.items()
    )


def alarm_of_expression(record: Any) -> Any:
    """The alarm's record, of an expression that of its one metric."""

    def of_metric(name: str, properties: Properties) -> Properties:
        if "Metrics" not in properties:
            return record(name, properties)
        stats = [x["MetricStat"] for x in properties["Metrics"] if "MetricStat" in x]
        # A query is one of no metric that could be named.
        named = {"Namespace": "query", "MetricName": properties["Metrics"][0].get("Expression")}
        query = {"Metric": named, "Period": 60, "Stat": "Minimum"}
        (stat,) = stats or [query]
        plain = {**properties, **stat["Metric"], "Period": stat["Period"], "Statistic": stat["Stat"]}
        del plain["Metrics"]
        return record(name, plain)

    return of_metric


def tagged_resource(resource: Any) -> Any:
    """The resource that a call is about, of ELBv2 also the one to be tagged."""

    def of_call(service: str, method: str, path: str, headers: Any, body: bytes, query: Any, *rest: Any) -> str:
        found: str = resource(service, method, path, headers, body, query, *rest)
        if service == "elasticloadbalancing" and found == "*":
            found = iam_actions._query_param(query, "ResourceArns.member.1") or "*"
        return found

    return of_call


def wanted(query: Any, name: str) -> list[str]:
    """The members of a list of the call, or those of its filter service-id."""
    return ec2._parse_member_list(query, name) or ec2._parse_filters(query).get("service-id", [])


def item(**fields: Any) -> str:
    """An item of an answer, with lists as items of theirs."""
    return f"<item>{''.join(f'<{k}>{text(v)}</{k}>' for k, v in fields.items())}</item>"


def text(value: Any) -> str:
    """What stands in an element."""
    if isinstance(value, list):
        return "".join(value)
    return escape(str(value).lower() if isinstance(value, bool) else str(value))


def plain(values: list[str]) -> list[str]:
    """Items that hold a text each."""
    return [f"<item>{escape(x)}</item>" for x in values]


def describe_services(query: Any) -> Any:
    """DescribeVpcEndpointServiceConfigurations."""
    ids = wanted(query, "ServiceId") or list(services)
    found = [
        item(
            serviceId=service,
            serviceName=f"com.amazonaws.vpce.{get_region()}.{service}",
            serviceState="Available",
            acceptanceRequired=str(services[service]["AcceptanceRequired"]).lower(),
            networkLoadBalancerArnSet=plain(services[service]["NetworkLoadBalancerArns"]),
            supportedIpAddressTypeSet=plain(services[service].get("SupportedIpAddressTypes", ["ipv4"])),
            supportedRegionSet=[
                item(region=x, serviceState="Available")
                for x in services[service].get("SupportedRegions", [get_region()])
            ],
            tagSet=[item(key=x["Key"], value=x["Value"]) for x in services[service].get("Tags", [])],
            **private_dns(service),
        )
        for service in ids
    ]
    return answer("DescribeVpcEndpointServiceConfigurations", "serviceConfigurationSet", found)


def private_dns(service: str) -> dict[str, Any]:
    """The name that consumers may use, and how its owner is known."""
    record = {key.partition(".")[2]: x for key, x in attributes(service).items() if "." in key}
    if not record:
        return {}
    fields = "".join(f"<{key[0].lower()}{key[1:]}>{text(x)}</{key[0].lower()}{key[1:]}>" for key, x in record.items())
    return {"privateDnsName": services[service]["PrivateDnsName"], "privateDnsNameConfiguration": [fields]}


def describe_permissions(query: Any) -> Any:
    """DescribeVpcEndpointServicePermissions."""
    allowed = principals[ec2._p(query, "ServiceId")]
    found = [item(principal=x, principalType="Service" if "amazonaws" in x else "Account") for x in allowed]
    return answer("DescribeVpcEndpointServicePermissions", "allowedPrincipals", found)


def describe_notifications(_: Any) -> Any:
    """DescribeVpcEndpointConnectionNotifications."""
    found = [
        item(
            connectionNotificationId=identifier,
            serviceId=x["ServiceId"],
            connectionNotificationArn=x["ConnectionNotificationArn"],
            connectionEvents=plain(x["ConnectionEvents"]),
            connectionNotificationState="Enabled",
        )
        for identifier, x in notifications.items()
    ]
    return answer("DescribeVpcEndpointConnectionNotifications", "connectionNotificationSet", found)


def describe_connections(query: Any) -> Any:
    """DescribeVpcEndpointConnections."""
    found = [
        item(
            serviceId=service,
            vpcEndpointId=x["VpcEndpointId"],
            vpcEndpointOwner=x["OwnerId"],
            vpcEndpointState=(
                "pendingAcceptance"
                if str(services[service]["AcceptanceRequired"]).lower() == "true" and x["VpcEndpointId"] not in accepted
                else "available"
            ),
        )
        for service in wanted(query, "ServiceId") or list(services)
        for x in connected(service)
    ]
    return answer("DescribeVpcEndpointConnections", "vpcEndpointConnectionSet", found)


def answer(action: str, element: str, items: list[str]) -> Any:
    """The answer to an EC2 call."""
    return ec2._xml(200, f"{action}Response", f"<{element}>{''.join(items)}</{element}>")


def teach() -> None:
    """Adds all of this to ministack."""
    provisioners._RESOURCE_HANDLERS.update(
        {
            "AWS::EC2::VPCEndpointService": {
                "create": create_service,
                "update": update_service,
                "delete": delete_service,
            },
            "AWS::EC2::VPCEndpointServicePermissions": {
                "create": lambda _, new, __: set_principals(new["ServiceId"], new["AllowedPrincipals"]),
                "update": lambda _, __, new, ___: set_principals(new["ServiceId"], new["AllowedPrincipals"]),
                "delete": lambda _, old: set_principals(old["ServiceId"], []),
            },
            "AWS::EC2::VPCEndpointConnectionNotification": {
                "create": lambda _, new, __: notify(f"vpce-nfn-{secrets.token_hex(8)}1", new),
                "update": lambda identifier, _, new, __: notify(identifier, new),
                "delete": lambda identifier, _: notifications.pop(identifier, None),
            },
            "AWS::EC2::SecurityGroupIngress": {"create": admit, "update": replace_rule, "delete": shut_out},
        }
    )
    handlers = provisioners._RESOURCE_HANDLERS
    wraps = {"LoadBalancer": network_resources, "Listener": listener_attributes, "TargetGroup": targets}
    for resource, wrap in wraps.items():
        handler = handlers[f"AWS::ElasticLoadBalancingV2::{resource}"]
        handler["create"] = wrap(handler["create"])
    handlers["AWS::EC2::VPCEndpoint"]["create"] = endpoint_names(handlers["AWS::EC2::VPCEndpoint"]["create"])
    alb._lb_xml = enforcement(alb._lb_xml)
    alb._ACTION_MAP["DescribeTargetHealth"] = reported_health(alb._describe_target_health)
    alb._ACTION_MAP["CreateLoadBalancer"] = network_arns(alb._ACTION_MAP["CreateLoadBalancer"])
    provisioners._STACK_TAG_PROPERTY["AWS::EC2::VPCEndpointService"] = ("Tags", "list")
    provisioners._cw_metric_alarm_record = alarm_of_expression(provisioners._cw_metric_alarm_record)
    ec2._ACTION_MAP.update(
        AcceptVpcEndpointConnections=accept,
        DescribeVpcEndpointConnectionNotifications=describe_notifications,
        DescribeVpcEndpointConnections=describe_connections,
        DescribeVpcEndpointServiceConfigurations=describe_services,
        DescribeVpcEndpointServicePermissions=describe_permissions,
    )
    for collectors in (tagging._RESOURCE_TAG_COLLECTORS, tagging._COLLECTORS):
        collectors["elasticloadbalancing"] = lambda: list(alb._tags.items())
    iam_actions.extract_resource_arn = tagged_resource(iam_actions.extract_resource_arn)


if __name__ == "__main__":
    teach()
    main()
