"""The checks, on what stands in for AWS (`make conformance`) or on AWS itself (`make conformance-aws`)."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from conformance import acceptance
from conformance.facts import FACTS, Outcome, judge
from conformance.network import TAG, Network, network, remove, tagged
from conformance.places import PORT, Place, moto, ours
from local.__main__ import STOPS, interrupt
from local.cloud import ministack
from local.process import ROOT, Failure, isolate

PAGE = ROOT / "docs" / "conformance.md"
# Between these the page has the matrix.
BEGIN, END = "<!-- make conformance writes this -->\n", "<!-- until here -->"

Matrix = Mapping[str, Mapping[str, Outcome]]

COSTS = {
    "aws": f"""\
It makes a stack with a VPC, an internal network load balancer and an interface endpoint, some 90 target groups, and
three metrics, which CloudWatch keeps for 15 months. It should take about 20 minutes and cost less than 0.10 USD.
Everything has the tag {TAG}. Everything is removed in the end, also if it fails or is interrupted.""",
    "acceptance": acceptance.COSTS,
    "sweep": f"It removes all of this account and Region that has the tag {TAG}, also of runs that go on.",
}


def main() -> int:
    """0 if every fact holds where it has to."""
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    parser.add_argument("where", choices=("local", *COSTS))
    parser.add_argument("--sandbox", default="", help="the number of the account, which says that it is a sandbox")
    parser.add_argument("--yes", action="store_true", help="do it; without this it is only told what would be done")
    parser.add_argument("--throttle", action="store_true", help="also use up the account's read quota, for seconds")
    parser.add_argument("--package", type=Path, default=ROOT / "dist", help="a folder as `make package` fills it")
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
    """Writes the matrix into the page; 0 if all holds on our emulation."""
    isolate()
    matrix = on_emulations()
    PAGE.write_text(with_matrix(PAGE.read_text(), matrix))
    print(f"\nWritten into {PAGE.relative_to(ROOT)}")
    wrong = [f"{name}: {x.verdict}: {x.seen}" for name, x in matrix["ours"].items() if x.verdict != "holds"]
    for line in wrong:
        print(f"Our emulation is not as AWS is said to be: {line}", file=sys.stderr)
    return 1 if wrong else 0


def on_emulations() -> Matrix:
    """All facts where throttling bothers nobody."""
    with tempfile.TemporaryDirectory(prefix="nlb-hostname-targets-") as work:
        with ours() as place:
            matrix = {"ours": judged(place, throttle=True)}
        for name, start in {"ministack": ministack, "moto": moto}.items():
            with start(Path(work)) as cloud:
                place = Network(name, boto3.Session(), cloud.endpoint)
                place.create()
                if name == "moto":
                    # Its CloudFormation makes no network load balancer.
                    place.balancer = cloud.create_target_group("checks", PORT).load_balancer
                matrix[name] = judged(place, throttle=True)
    return matrix


def judged(place: Place, throttle: bool) -> dict[str, Outcome]:
    """Runs the checks, and tells of each."""
    outcomes = {}
    for fact in FACTS:
        spared = fact.spends and not throttle
        outcome = (
            Outcome("not supported", "not asked for: --throttle") if spared else judge(lambda x=fact: x.check(place))
        )
        print(f"{place.name:10} {fact.name:32} {outcome.verdict}{outcome.seen and f': {outcome.seen}'}", flush=True)
        outcomes[fact.name] = outcome
    return outcomes


def rows(matrix: Matrix, measured: bool = False) -> list[str]:
    """The matrix as a table in Markdown; what is measured differs each time."""
    lines = [f"| fact | | {' | '.join(matrix)} |", "|---|---|" + "---|" * len(matrix)]
    for fact in FACTS:
        found = [outcomes[fact.name] for outcomes in matrix.values()]
        cells = [x.cell() if measured else "holds" if x.verdict == "holds" else x.cell(70) for x in found]
        lines.append(f"| [`{fact.name}`]({fact.source}) | {fact.says.replace('|', '&#124;')} | {' | '.join(cells)} |")
    return lines


def with_matrix(page: str, matrix: Matrix) -> str:
    """The page with this matrix in it."""
    head, rest = page.split(BEGIN)
    _, tail = rest.split(END)
    return head + BEGIN + "\n" + "\n".join(rows(matrix)) + "\n\n" + END + tail


def on_account(given: argparse.Namespace) -> int:
    """What is asked for, on the account of the user's own profile."""
    session = boto3.Session(region_name=os.environ.get("AWS_REGION"))
    account = sandbox(session, given.sandbox)
    # By this one boto3 goes where it is given no session.
    os.environ["AWS_DEFAULT_REGION"] = str(session.region_name)
    print(f"Account {account}, {session.region_name}.\n{COSTS[given.where]}\n", flush=True)
    if not given.yes:
        print("Nothing was done. To do it, add CONFIRM=no (--yes).", file=sys.stderr)
        return 2
    # boto3 knows the variable, too: the tests of all this run against an emulation.
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    place = Network("emulation" if endpoint else "AWS", session, endpoint)
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
    print("\n" + "\n".join(rows({f"{place.name} in {session.region_name}": outcomes}, measured=True)))
    print(f"\nA read lagged a write by {place.lag:.1f} s at most.")
    return 0 if all(outcome.verdict != "differs" for outcome in outcomes.values()) else 1


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


if __name__ == "__main__":
    sys.exit(main())
