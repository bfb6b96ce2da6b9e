"""The checks, on what stands in for AWS (`make conformance`) or on AWS itself (`make conformance-aws`)."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from conformance import acceptance
from conformance.facts import FACTS, Fact, Outcome, Place, judge
from conformance.network import TAG, Network, network, remove, tagged
from conformance.places import NAMES, opened
from local.__main__ import STOPS, interrupt
from local.process import ROOT, Failure, isolate

PAGE = ROOT / "docs" / "conformance.md"
# Between these the page has the matrix.
BEGIN, END = "<!-- make conformance writes this -->\n", "<!-- until here -->"

Matrix = dict[str, dict[str, Outcome]]


def main() -> int:
    """0 if every fact holds where it has to."""
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    where = parser.add_subparsers(dest="where", required=True)
    where.add_parser("local", help="on our emulation, ministack and moto; writes the matrix into docs/conformance.md")
    on_aws = where.add_parser("aws", help="on AWS, in a VPC of its own")
    on_aws.add_argument("--throttle", action="store_true", help="also use up the account's read quota, for seconds")
    scenario = where.add_parser("acceptance", help="on AWS: a stack from a package, and its failovers")
    scenario.add_argument("--package", type=Path, default=ROOT / "dist", help="a folder as `make package` fills it")
    sweep = where.add_parser("sweep", help="on AWS: remove what killed runs left")
    for each in (on_aws, scenario, sweep):
        each.add_argument("--sandbox", default="", help="the number of the account, which says that it is a sandbox")
        each.add_argument("--yes", action="store_true", help="do it; without this it is only told what would be done")
    given = parser.parse_args()
    for number in STOPS:
        signal.signal(number, interrupt)
    try:
        return locally() if given.where == "local" else on_account(given)
    except Failure as failure:
        print(f"\nFAILED: {failure}", file=sys.stderr)
        return 1
    except (BotoCoreError, ClientError) as error:
        print(f"\nFAILED: AWS: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        # The others remove in any case.
        end = "run it again for what is left" if given.where == "sweep" else "what was made has been removed"
        print(f"\nInterrupted; {end}.", file=sys.stderr)
        return 128 + int(stop.args[0])


def locally() -> int:
    """The matrix, printed and written into the page; 0 if all holds on our emulation."""
    isolate()
    with tempfile.TemporaryDirectory(prefix="nlb-hostname-targets-") as work:
        matrix = {name: run(name, Path(work)) for name in NAMES}
    text = PAGE.read_text()
    PAGE.write_text(with_matrix(text, matrix))
    print("\n".join(rows(matrix)))
    print(f"\nWritten into {PAGE.relative_to(ROOT)}")
    wrong = [f"{name}: {x.verdict}: {x.seen}" for name, x in matrix["ours"].items() if x.verdict != "holds"]
    for line in wrong:
        print(f"Our emulation is not as AWS is said to be: {line}", file=sys.stderr)
    return 1 if wrong else 0


def run(name: str, work: Path) -> dict[str, Outcome]:
    """All facts in one of the places that are not AWS, where throttling bothers nobody."""
    with opened(name, work) as place:
        return {fact.name: outcome for fact, outcome in judged(place, throttle=True)}


def judged(place: Place, throttle: bool) -> list[tuple[Fact, Outcome]]:
    """Runs the checks, and tells of each."""
    outcomes = []
    for fact in FACTS:
        if fact.spends and not throttle:
            outcome = Outcome("not supported", "not asked for: --throttle")
        else:
            outcome = judge(fact, place)
        seen = f": {outcome.seen}" if outcome.seen else ""
        print(f"{place.name:10} {fact.name:32} {outcome.verdict}{seen}", flush=True)
        outcomes.append((fact, outcome))
    return outcomes


def rows(matrix: Mapping[str, Mapping[str, Outcome]]) -> list[str]:
    """The matrix as a table in Markdown: without what is measured, which differs each time."""
    lines = [f"| fact | | {' | '.join(matrix)} |", "|---|---|" + "---|" * len(matrix)]
    for fact in FACTS:
        cells = [cell(outcomes[fact.name]) for outcomes in matrix.values()]
        lines.append(f"| `{fact.name}` | {escaped(fact.says)} ([source]({fact.source})) | {' | '.join(cells)} |")
    return lines


def cell(outcome: Outcome) -> str:
    """A verdict, with what was seen in place of what should be."""
    if outcome.verdict == "holds":
        return "holds"
    seen = re.sub(r"arn:aws\S+", "ARN", outcome.seen)
    seen = seen if len(seen) <= 70 else f"{seen[:70].strip()}…"
    return f"**{outcome.verdict}**: {escaped(seen)}"


def escaped(text: str) -> str:
    """The text as a cell of a table has it."""
    return re.sub(r"([|*\[\]<>])", r"\\\1", text) if "`" not in text else text.replace("|", "\\|")


def with_matrix(page: str, matrix: Mapping[str, Mapping[str, Outcome]]) -> str:
    """The page with this matrix in it."""
    head, rest = page.split(BEGIN)
    _, tail = rest.split(END)
    return head + BEGIN + "\n" + "\n".join(rows(matrix)) + "\n\n" + END + tail


COSTS = {
    "aws": f"""\
It makes a VPC with two subnets, some 90 target groups, an internal network load balancer and an interface endpoint, and
sends three metrics, which CloudWatch keeps for 15 months. It should take about 20 minutes and cost less than 0.10 USD.
Everything has the tag {TAG}. Everything is removed in the end, also if it fails or is interrupted.""",
    "acceptance": acceptance.COSTS,
    "sweep": f"It removes all of this account and Region that has the tag {TAG}, also of runs that go on.",
}


def on_account(given: argparse.Namespace) -> int:
    """What is asked for, on the account of the user's own profile."""
    session = boto3.Session(region_name=os.environ.get("AWS_REGION"))
    # For emulations, which the tests of all this run against. boto3 itself knows the variable, too.
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    account = sandbox(session, given.sandbox)
    # By this one boto3 goes where it is given no session.
    os.environ["AWS_DEFAULT_REGION"] = str(session.region_name)
    print(f"Account {account}, {session.region_name}.\n{COSTS[given.where]}\n", flush=True)
    if not given.yes:
        print("Nothing was done. To do it, add CONFIRM=no (--yes).", file=sys.stderr)
        return 2
    place = place_of(session, endpoint)
    if given.where == "sweep":
        remove(place, print, of_all=True)
        print("Nothing with the tag is left.")
        return 0
    # Who may not look for what is left could not remove it either.
    if earlier := tagged(place, None):
        print(f"Of another run there is still {earlier[0][0]}: if that has ended, `make conformance-sweep`.")
    print(f"This is run {place.run}. If it is killed, `make conformance-sweep` removes what it left.\n", flush=True)
    if given.where == "acceptance":
        return acceptance.main(place, given.package)
    with network(place, print):
        outcomes = judged(place, given.throttle)
    print("\n" + "\n".join(report({fact.name: outcome for fact, outcome in outcomes}, session.region_name)))
    return 0 if all(outcome.verdict != "differs" for _, outcome in outcomes) else 1


def sandbox(session: boto3.Session, said: str) -> str:
    """The account, which the user must have called a sandbox by its number."""
    if session.region_name is None:
        raise Failure("no Region: set AWS_REGION, or one in your profile")
    caller = session.client("sts").get_caller_identity()
    account: str = caller["Account"]
    who = f"These credentials ({caller['Arn']}) are of account {account}."
    if not said:
        raise Failure(f"{who} If nothing of value is in it, say so: SANDBOX={account} (--sandbox)")
    if said != account:
        raise Failure(f"{who} The sandbox is to be {said}: choose its profile, or correct SANDBOX")
    return account


def place_of(session: boto3.Session, endpoint: str | None) -> Network:
    """AWS, where reads may lag and targets are initial for minutes, or an emulation in its place."""
    if endpoint:
        return Network("emulation", session, endpoint)
    return Network("AWS", session, None, patience=60, initial_seconds=300, settle_seconds=5, pause=5)


def report(outcomes: Mapping[str, Outcome], region: str | None) -> list[str]:
    """What was found, for an issue: with what was measured."""
    lines = [f"Conformance of AWS in {region}:", "", "| fact | | verdict | seen |", "|---|---|---|---|"]
    for fact in FACTS:
        outcome = outcomes[fact.name]
        lines.append(f"| `{fact.name}` | {escaped(fact.says)} | {outcome.verdict} | {escaped(outcome.seen)} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
