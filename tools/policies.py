"""`make policies`: what IAM must allow where the stack may not create roles, and who deploys it may not do everything.

All of it follows from the template. The function's and the scheduler's role are the template's own, with what a stack
of that name and with those parameters makes of them. What the person who deploys needs is what the types of the
template's resources say in CloudFormation's registry, of which cfn-lint brings a copy.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
import cfnlint.data.schemas.resources as registry
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

from tools.parameters import Refused, read, template

Policy = dict[str, Any]

NO_VALUE = object()
# Of services and properties that the template does not use, by what their actions are called.
UNUSED = (
    r"^(cognito-idp|elasticfilesystem|firehose|s3|s3files|vpc-lattice):",
    r"^ec2:\w*(Ipam|ServicePayerResponsibility)",
    r"^elasticloadbalancing:(De)?[Rr]egisterTargets$",
    r"^elasticloadbalancing:\w*(CapacityReservation|IpPools)",
    r"^(cloudwatch|lambda|logs|sns):\w*(BearerToken|CapacityProvider|CodeSigning|Concurrency|DataProtection|Delivery)",
    r"^(cloudwatch|lambda|logs|sns):\w*(InsightRules|IndexPolicy|LayerVersion|GroupDeletionProtection|PublishVersion)",
    r"^(cloudwatch|lambda|logs|sns):\w*(RecursionConfig|ResourcePolicy|RuntimeManagement|ScalingConfig)",
    r"^iam:(At|De)tachRolePolicy$",
)
# What SAM keeps the function's code in.
BUCKET = "aws-sam-cli-managed-default"


def main() -> int:
    """Prints the three policies."""
    parser = argparse.ArgumentParser(prog="make policies", description=__doc__)
    parser.add_argument("stack")
    parser.add_argument("--parameters", type=Path, help="the stack's parameter file, if there is one yet")
    parser.add_argument("--account", default="123456789012")
    parser.add_argument("--region", default="eu-west-1")
    given = parser.parse_args()
    try:
        declared = template()["Parameters"]
        values = read(given.parameters, declared) if given.parameters and given.parameters.exists() else {}
        stack = Stack(given.stack, given.account, given.region, values)
        for title, document in stack.documents().items():
            print(f"{title}\n\n{json.dumps(document, indent=2)}\n")
    except Refused as refused:
        print(f"make policies: {refused}", file=sys.stderr)
        return 1
    return 0


class Stack:
    """The template as a stack of that name would have it, before it is there."""

    def __init__(self, name: str, account: str, region: str, values: Mapping[str, str]) -> None:
        self.name = name
        self.account = account
        self.region = region
        self.partition: str = boto3.Session().get_partition_for_region(region)
        self.template = template()
        defaults = {k: str(x.get("Default", "")) for k, x in self.template["Parameters"].items()}
        # Without a parameter file, a load balancer that is created.
        created = {"Hostname": "a.example", "Port": "5432", "VpcId": "vpc-01234567", "SubnetIds": "subnet-01234567"}
        self.brought = [values[x] for x in ("FunctionRoleArn", "SchedulerRoleArn") if values.get(x)]
        # The roles are printed whether they are brought or created.
        self.values = {**defaults, **(values or created), "FunctionRoleArn": "", "SchedulerRoleArn": ""}

    def documents(self) -> dict[str, Policy]:
        """All that is printed."""
        return {
            "# Role of the function: who may assume it (trust policy)": self.trust("FunctionRole"),
            "# Role of the function: what it may do": self.permissions("FunctionRole"),
            "# Role of the schedule: who may assume it (trust policy)": self.trust("SchedulerRole"),
            "# Role of the schedule: what it may do": self.permissions("SchedulerRole"),
            "# Whoever deploys": self.deployer(),
        }

    def trust(self, role: str) -> Policy:
        """The role's trust policy."""
        found: Policy = self.value(self.template["Resources"][role]["Properties"]["AssumeRolePolicyDocument"])
        return found

    def permissions(self, role: str) -> Policy:
        """The role's policy. Target groups that the stack will make are known by the tag that they will have."""
        (policy,) = self.template["Resources"][role]["Properties"]["Policies"]
        document: Policy = self.value(copy.deepcopy(policy["PolicyDocument"]))
        for statement in document["Statement"]:
            if self.made("targetgroup/*/*") in statement["Resource"] and "Null" not in statement["Condition"]:
                statement["Resource"] = self.made("targetgroup/*/*")
                statement["Condition"]["StringEquals"] = {"aws:ResourceTag/aws:cloudformation:stack-name": self.name}
        return document

    def deployer(self) -> Policy:
        """What whoever deploys needs, roles of the stack's own included."""
        stack = self.arn("cloudformation", f"stack/{self.name}/*")
        bucket = f"arn:{self.partition}:s3:::{BUCKET}-*"
        # Of a long stack name, the names of what is in it begin with less.
        roles = [f"arn:{self.partition}:iam::{self.account}:role/{self.name[:20]}*"]
        service_role = f"arn:{self.partition}:iam::{self.account}:role/aws-service-role/elasticloadbalancing.*/*"
        needed = self.registered() - {"iam:PassRole"}
        of_roles = sorted(x for x in needed if x.startswith("iam:"))
        reads = sorted({read_of(x) for x in needed if not x.startswith("iam:") and read_of(x)})
        writes = sorted(x for x in needed if not x.startswith("iam:") and not read_of(x))
        transform = f"arn:{self.partition}:cloudformation:{self.region}:aws:transform/Serverless-2016-10-31"
        return {
            "Version": "2012-10-17",
            "Statement": [
                allow("Stack", ["cloudformation:*"], [stack, self.arn("cloudformation", f"stack/{BUCKET}/*")]),
                allow("Template", ["cloudformation:CreateChangeSet"], transform),
                allow("Validate", ["cloudformation:GetTemplateSummary", "cloudformation:ValidateTemplate"], "*"),
                allow("Code", ["s3:*"], [bucket, f"{bucket}/*"]),
                allow("Look", reads, "*"),
                allow("Change", writes, "*"),
                allow("Roles", of_roles, roles),
                allow("PassRoles", ["iam:PassRole"], [*roles, *self.brought])
                | {"Condition": {"StringEquals": {"iam:PassedToService": self.services()}}},
                allow("TryOut", ["lambda:InvokeFunction"], self.references["Function.Arn"]),
                allow("FirstLoadBalancer", ["iam:CreateServiceLinkedRole"], service_role),
            ],
        }

    def registered(self) -> set[str]:
        """What the registry says of all types that are in the template, less what it does not use."""
        schemas = [json.loads(x.read_text()) for x in Path(registry.__path__[0]).glob("*.json")]
        handlers = {x["typeName"]: x.get("handlers", {}) for x in schemas}
        actions = {
            action
            for resource in self.types()
            for handler, needs in handlers[resource].items()
            if handler != "list"
            for action in needs["permissions"]
        }
        return {x for x in actions if not any(re.search(pattern, x) for pattern in UNUSED)}

    def types(self) -> set[str]:
        """The types of resources of the template, as SAM translates it."""
        source = copy.deepcopy(self.template)
        source["Resources"]["Function"]["Properties"]["CodeUri"] = {"Bucket": "bucket", "Key": "key"}
        session = boto3.Session(region_name=self.region)
        translator = Translator(managed_policy_map={}, sam_parser=Parser(), boto_session=session)
        return {x["Type"] for x in translator.translate(source, {})["Resources"].values()}

    def services(self) -> list[str]:
        """Those that roles are passed to."""
        return [self.trust(x)["Statement"][0]["Principal"]["Service"] for x in ("FunctionRole", "SchedulerRole")]

    def arn(self, service: str, resource: str) -> str:
        """An ARN of the stack's account and Region."""
        return f"arn:{self.partition}:{service}:{self.region}:{self.account}:{resource}"

    def made(self, resource: str) -> str:
        """The ARN of something of ELBv2."""
        return self.arn("elasticloadbalancing", resource)

    @cached_property
    def references(self) -> dict[str, str]:
        """What the roles refer to, by the names that CloudFormation will give."""
        log_group = self.arn("logs", f"log-group:/aws/lambda/{self.name}-hostname-targets:*")
        groups = {f"{x}TargetGroup": self.made("targetgroup/*/*") for x in ("", "Second", "Third")}
        function = self.arn("lambda", f"function:{self.name[:20]}*-Function-*")
        pseudo = {"Partition": self.partition, "Region": self.region, "AccountId": self.account, "StackName": self.name}
        return {
            **{f"AWS::{x}": value for x, value in pseudo.items()},
            **groups,
            "LogGroup.Arn": log_group,
            "Function.Arn": function,
        }

    def value(self, node: Any) -> Any:
        """What CloudFormation makes of a part of the template."""
        if isinstance(node, list):
            return [x for x in map(self.value, node) if x is not NO_VALUE]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            (function, argument), *_ = node.items()
            if function == "Ref":
                return self.reference(argument)
            if function == "Fn::GetAtt":
                return self.references[".".join(argument)]
            if function == "Fn::Sub":
                return re.sub(r"\$\{(.*?)\}", lambda x: self.reference(x[1]), argument)
            if function == "Fn::If":
                return self.value(argument[1 if self.holds({"Condition": argument[0]}) else 2])
        return {key: x for key, x in ((key, self.value(x)) for key, x in node.items()) if x is not NO_VALUE}

    def reference(self, name: str) -> Any:
        """A parameter, a pseudo parameter or a resource."""
        if name == "AWS::NoValue":
            return NO_VALUE
        return self.values[name] if name in self.values else self.references[name]

    def holds(self, condition: Any) -> bool:
        """Whether a condition is true."""
        ((function, argument),) = condition.items()
        if function == "Condition":
            return self.holds(self.template["Conditions"][argument])
        if function == "Fn::Not":
            return not self.holds(argument[0])
        if function in ("Fn::And", "Fn::Or"):
            return (all if function == "Fn::And" else any)(map(self.holds, argument))
        left, right = (self.operand(x) for x in argument)
        return left == right

    def operand(self, node: Any) -> str:
        """A side of Fn::Equals."""
        if isinstance(node, dict) and "Fn::Select" in node:
            index, of = node["Fn::Select"]
            return str(self.value(of)).split(",")[index]
        return str(self.value(node))


def allow(sid: str, actions: list[str], resource: str | list[str]) -> Policy:
    """A statement."""
    return {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resource}


def read_of(action: str) -> str | None:
    """The wildcard that covers an action that only reads, or nothing."""
    found = re.match(r"(\w+):(Describe|Get|List)", action)
    return f"{found[1]}:{found[2]}*" if found else None


if __name__ == "__main__":
    sys.exit(main())
