"""The files of policies/: as the template has them, and as a role and a user on the local AWS, which enforces them."""

from __future__ import annotations

import copy
import fnmatch
import json
import re
from pathlib import Path
from typing import Any

import boto3
import cfnlint.data.schemas.resources as registry
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

from local.cloud import Cloud
from local.dns import DnsServer
from local.scenario import HOSTNAME, PORT
from tests.e2e.conftest import Deploy
from tests.e2e.stacks import read, role

# Of services and properties that the template does not use, by what their actions are called.
UNUSED = (
    r"^(cognito-idp|elasticfilesystem|firehose|kms|s3|s3files|vpc-lattice):",
    r"^ec2:\w*(Ipam|ServicePayerResponsibility)",
    r"^elasticloadbalancing:((De)?[Rr]egisterTargets$|\w*(CapacityReservation|IpPools))",
    r"^(cloudwatch|lambda|logs|sns):\w*(BearerToken|CapacityProvider|CodeSigning|Concurrency|DataProtection|Delivery)",
    r"^(cloudwatch|lambda|logs|sns):\w*(InsightRules|IndexPolicy|LayerVersion|GroupDeletionProtection|PublishVersion)",
    r"^(cloudwatch|lambda|logs|sns):\w*(RecursionConfig|ResourcePolicy|Runtime|ScalingConfig|KmsKey)",
    r"^iam:((At|De)tachRolePolicy$|\w*(Boundary|GroupPolicy|UserPolicy)$|PassRole$)",
)


def policy(name: str, stack: str) -> str:
    """A file of policies/, for a stack of the local AWS."""
    return read("policies", f"{name}.json").replace("123456789012", "000000000000").replace("orders", stack)


def test_a_role_made_of_them_suffices(cloud: Cloud, dns: DnsServer, deploy: Deploy, network: dict[str, str]) -> None:
    name = "a-role-made-of-them-suffices"
    permissions, trusted = json.loads(policy("role", name)), json.loads(policy("role-trust", name))
    other = cloud.create_target_group("others", PORT)
    own = role(cloud, "pasted", trusted, permissions)
    deployment = deploy(**network, RoleArn=own, DnsServers=dns.address, Ownership="shared")
    assert "FunctionRole" not in deployment.resources
    for address in ("10.0.1.10", "10.0.1.11"):
        # Registered, and remembered in tags.
        dns.answer(HOSTNAME, address)
        reply = deployment.invoke({})
        assert reply.error is None
        assert reply.group["registered"] == [f"{address}:{PORT}"]
    # A target group of somebody else's has not the stack's tag.
    request = {"bindings": [{"hostname": HOSTNAME, "target_group_arn": other.arn}]}
    assert "AccessDenied" in str(deployment.invoke(request).error)
    assert cloud.targets(other) == {}
    # And what is taken from it is refused.
    (change,) = [x for x in permissions["Statement"] if x["Sid"] == "Change"]
    change["Action"].remove("elasticloadbalancing:RegisterTargets")
    document = json.dumps(permissions)
    cloud.client("iam").put_role_policy(RoleName="pasted", PolicyName="own", PolicyDocument=document)
    dns.answer(HOSTNAME, "10.0.1.12")
    error = str(deployment.invoke({}).error)
    assert "elasticloadbalancing:RegisterTargets" in error
    assert "AccessDenied" in error


def test_the_role_is_the_templates(template: dict[str, Any]) -> None:
    resources = template["Resources"]
    (of_function,) = resources["FunctionRole"]["Properties"]["Policies"]
    of_schedule = resources["FunctionRolePolicy"]["Properties"]
    conditional = [x for policy in (of_function, of_schedule) for x in policy["PolicyDocument"]["Statement"]]
    wanted = [next(y for y in x["Fn::If"][1:] if "Sid" in y) if "Fn::If" in x else x for x in conditional]
    found = json.loads(read("policies", "role.json"))["Statement"]
    for theirs, ours in zip(wanted, found, strict=True):
        assert [ours[x] for x in ("Sid", "Effect", "Action")] == [theirs[x] for x in ("Sid", "Effect", "Action")]
        assert ours["Resource"] == theirs["Resource"] or theirs["Resource"] != "*"
        assert set(ours.get("Condition", {})) >= set(theirs.get("Condition", {}))
    assert len(re.sub(r"\s", "", json.dumps(found))) <= 6144
    trusted = resources["FunctionRole"]["Properties"]["AssumeRolePolicyDocument"]
    plain = json.dumps(trusted).replace('{"Ref": "AWS::AccountId"}', '"123456789012"')
    assert json.loads(read("policies", "role-trust.json")) == json.loads(plain)


def test_whoever_deploys_may_do_what_the_registry_says(template: dict[str, Any]) -> None:
    """Of the types of the template, as SAM translates it, which cfn-lint has a copy of."""
    source = copy.deepcopy(template)
    source["Resources"]["Function"]["Properties"]["CodeUri"] = {"Bucket": "bucket", "Key": "key"}
    session = boto3.Session(region_name="eu-west-1")
    translator = Translator(managed_policy_map={}, sam_parser=Parser(), boto_session=session)
    types = {x["Type"] for x in translator.translate(source, {})["Resources"].values()}
    assert "AWS::Lambda::Function" in types
    schemas = [json.loads(x.read_text()) for x in Path(registry.__path__[0]).glob("*.json")]
    handlers = [x.get("handlers", {}) for x in schemas if x["typeName"] in types]
    assert len(handlers) == len(types)
    needed = {y for x in handlers for name, needs in x.items() if name != "list" for y in needs["permissions"]}
    needed = {x for x in needed if not any(re.search(pattern, x) for pattern in UNUSED)}
    assert {"ec2:CreateVpcEndpointServiceConfiguration", "iam:CreateRole"} <= needed
    document = json.loads(read("policies", "deploy.json"))
    actions = [x["Action"] for x in document["Statement"]]
    allowed = [y for x in actions for y in (x if isinstance(x, list) else [x])]
    assert sorted(x for x in needed if not any(fnmatch.fnmatchcase(x, y) for y in allowed)) == []
    # It has to fit into a managed policy.
    assert len(re.sub(r"\s", "", json.dumps(document))) <= 6144
