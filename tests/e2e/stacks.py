"""Stacks of the template on the local AWS, and what the tests look up of them."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local.cloud import Cloud
from local.deployment import Deployment
from local.process import ROOT
from local.scenario import HOSTNAME, PORT

# sam deploy makes a change set, which needs the first alone.
CAPABILITIES = ["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"]
DATABASE = {"Hostname": HOSTNAME, "Port": str(PORT)}
# As samconfig.toml has them.
TAGS = [{"Key": "Application", "Value": "nlb-hostname-targets"}]

# The tags in which the function keeps its state.
OUR_KEYS = "nlb-hostname-targets:*"
OUR_TAGS = {"ForAllValues:StringLike": {"aws:TagKeys": OUR_KEYS}}


@dataclass
class Stack:
    """A stack that is made, changed and deleted by CloudFormation's own calls."""

    cloud: Cloud
    template: str
    name: str
    parameters: dict[str, str] = field(default_factory=dict)

    def create(self, parameters: Mapping[str, str]) -> Deployment:
        """Makes it."""
        self.parameters = dict(parameters)
        arguments = {"TemplateURL": self.template, "Capabilities": CAPABILITIES, "Tags": TAGS}
        self._formation.create_stack(StackName=self.name, Parameters=pairs(self.parameters), **arguments)
        self._settle("CREATE_COMPLETE")
        return Deployment(self.cloud, self.name)

    def changes(self, **parameters: str) -> dict[str, str]:
        """What an update with these parameters does to which resource, by a change set that is then carried out."""
        kept = [{"ParameterKey": x, "UsePreviousValue": True} for x in self.parameters if x not in parameters]
        name = f"change-{uuid.uuid4().hex}"
        arguments = {"TemplateURL": self.template, "Capabilities": CAPABILITIES, "Tags": TAGS}
        change = {"StackName": self.name, "ChangeSetName": name}
        self._formation.create_change_set(**change, Parameters=kept + pairs(parameters), **arguments)
        while (found := self._formation.describe_change_set(**change))["Status"].endswith(("PENDING", "PROGRESS")):
            time.sleep(0.05)
        if found["Status"] == "FAILED":
            assert "didn't contain changes" in found["StatusReason"]
            self._formation.delete_change_set(**change)
            return {}
        self._formation.execute_change_set(**change)
        self._settle("UPDATE_COMPLETE")
        self.parameters |= parameters
        return {x["LogicalResourceId"]: x["Action"] for x in (c["ResourceChange"] for c in found["Changes"])}

    def delete(self) -> None:
        """Deletes it, if it was made."""
        if self.parameters:
            self._formation.delete_stack(StackName=self.name)
            self._formation.get_waiter("stack_delete_complete").wait(
                StackName=self.name, WaiterConfig={"Delay": 0.05, "MaxAttempts": 1000}
            )

    @property
    def _formation(self) -> Any:
        return self.cloud.client("cloudformation")

    def _settle(self, wanted: str) -> None:
        while True:
            (stack,) = self._formation.describe_stacks(StackName=self.name)["Stacks"]
            if not stack["StackStatus"].endswith("PROGRESS"):
                break
            time.sleep(0.05)
        events = self._formation.describe_stack_events(StackName=self.name)["StackEvents"]
        failed = [
            (x["LogicalResourceId"], x.get("ResourceStatusReason")) for x in events if "FAIL" in x["ResourceStatus"]
        ]
        assert stack["StackStatus"] == wanted, failed


def pairs(parameters: Mapping[str, str]) -> list[dict[str, str]]:
    """Parameters as CloudFormation takes them."""
    return [{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()]


def inventory(cloud: Cloud) -> set[str]:
    """Everything that a stack may make, by its name, and the rules of every security group."""
    clients = {name: cloud.client(name) for name in ("ec2", "lambda", "logs", "iam", "scheduler", "events", "sns")}
    cloudwatch = cloud.client("cloudwatch")
    groups = clients["ec2"].describe_security_groups()["SecurityGroups"]
    services = clients["ec2"].describe_vpc_endpoint_service_configurations()["ServiceConfigurations"]
    notifications = clients["ec2"].describe_vpc_endpoint_connection_notifications()["ConnectionNotificationSet"]
    found = [
        [x["LoadBalancerArn"] for x in cloud.elb.describe_load_balancers()["LoadBalancers"]],
        [x["TargetGroupArn"] for x in cloud.elb.describe_target_groups()["TargetGroups"]],
        [x["GroupId"] for x in groups],
        [f"{x['GroupId']} admits {y}" for x in groups for y in x["IpPermissions"]],
        [x["VpcEndpointId"] for x in clients["ec2"].describe_vpc_endpoints()["VpcEndpoints"]],
        [x["ServiceId"] for x in services],
        [x["ConnectionNotificationId"] for x in notifications],
        [x["FunctionName"] for x in clients["lambda"].list_functions()["Functions"]],
        [x["logGroupName"] for x in clients["logs"].describe_log_groups()["logGroups"]],
        [x["Arn"] for x in clients["iam"].list_roles()["Roles"]],
        [x["Arn"] for x in clients["scheduler"].list_schedules()["Schedules"]],
        [x["Arn"] for x in clients["events"].list_rules()["Rules"]],
        [x["TopicArn"] for x in clients["sns"].list_topics()["Topics"]],
        [x["SubscriptionArn"] for x in clients["sns"].list_subscriptions()["Subscriptions"]],
        [x["AlarmArn"] for x in cloudwatch.describe_alarms()["MetricAlarms"]],
        [x["DashboardName"] for x in cloudwatch.list_dashboards()["DashboardEntries"]],
    ]
    return {name for names in found for name in names}


def role(cloud: Cloud, name: str, trust: Mapping[str, Any], permissions: Mapping[str, Any] | None = None) -> str:
    """A role of one's own with these policies; its ARN."""
    iam = cloud.client("iam")
    made = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))["Role"]
    if permissions is not None:
        iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=json.dumps(permissions))
    arn: str = made["Arn"]
    return arn


def trust(*services: str) -> dict[str, Any]:
    """The policy that lets services assume a role."""
    statement = {"Effect": "Allow", "Principal": {"Service": list(services)}, "Action": "sts:AssumeRole"}
    return {"Version": "2012-10-17", "Statement": [statement]}


def topic(cloud: Cloud, name: str) -> str:
    """A topic of one's own that an endpoint service may publish to; its ARN."""
    sns = cloud.client("sns")
    arn: str = sns.create_topic(Name=name)["TopicArn"]
    services = {"Service": ["cloudwatch.amazonaws.com", "vpce.amazonaws.com"]}
    statement = {"Effect": "Allow", "Principal": services, "Action": "sns:Publish", "Resource": arn}
    document = {"Version": "2012-10-17", "Statement": [statement]}
    sns.set_topic_attributes(TopicArn=arn, AttributeName="Policy", AttributeValue=json.dumps(document))
    return arn


def statements(deployment: Deployment, resource: str, name: str) -> dict[str, dict[str, Any]]:
    """The statements of a role's policy, by their Sid."""
    iam = deployment.cloud.client("iam")
    document = iam.get_role_policy(RoleName=deployment.resources[resource], PolicyName=name)["PolicyDocument"]
    return {statement["Sid"]: statement for statement in document["Statement"]}


def alarms(deployment: Deployment) -> dict[str, dict[str, Any]]:
    """The stack's alarms, by their name in the template."""
    found = deployment.cloud.client("cloudwatch").describe_alarms()["MetricAlarms"]
    named = {physical: logical for logical, physical in deployment.resources.items()}
    return {named[x["AlarmName"]]: x for x in found if x["AlarmName"] in named}


def attributes(found: list[dict[str, str]]) -> dict[str, str]:
    """Keys and values."""
    return {x["Key"]: x["Value"] for x in found}


def stack_name(test: str) -> str:
    """A stack's name for a test."""
    return re.sub("[^a-z0-9]+", "-", test.removeprefix("test_"))[:40].strip("-")


def read(*path: str) -> str:
    """A file of the repository."""
    return Path(ROOT, *path).read_text()
