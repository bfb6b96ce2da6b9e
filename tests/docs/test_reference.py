"""The reference: it names what the template and the code have, all of it and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
# What a cell says where the template's default is empty.
EMPTY = {"–", "required"}


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    """The template, with CloudFormation's functions as plain values."""

    class Loader(yaml.SafeLoader):
        """Knows CloudFormation's tags."""

    def construct(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        if isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node, deep=True)
        return loader.construct_scalar(node)

    Loader.add_multi_constructor("!", construct)
    return yaml.load((ROOT / "template.yaml").read_text(), Loader)


def test_the_parameters_are_the_templates(template: dict[str, Any]) -> None:
    documented = {name: cells[-1] for cells in rows("Parameters") for name in names(cells[0])}
    assert documented.keys() == template["Parameters"].keys()
    for name, parameter in template["Parameters"].items():
        default = str(parameter.get("Default", ""))
        said = documented[name].strip("`")
        assert (said in EMPTY) if default == "" else (said == default), f"{name}: {default!r}, and not {said!r}"


def test_the_outputs_are_the_templates(template: dict[str, Any]) -> None:
    assert documented("Outputs") == template["Outputs"].keys()


def test_the_environment_is_the_templates(template: dict[str, Any]) -> None:
    given = template["Resources"]["Function"]["Properties"]["Environment"]["Variables"]
    assert given.keys() <= documented("Environment")


def test_the_failures_the_findings_and_the_reasons_to_keep_are_the_codes() -> None:
    undiscovered = words("src/discovery.rs", r'kind = "([a-z_]+)"')
    assert documented("Failures") == words("core/src/failure.rs", r'=> "([a-z_]+)"') | undiscovered
    assert documented("Why a target stays") == as_serde_has_them("_", words("core/src/plan/hold.rs", r"Self::(\w+) =>"))
    for severity in ("Error", "Warning", "Info"):
        found = {name for x in rows("Check") if x[1] == severity.lower() for name in names(x[0])}
        (codes,) = words("core/src/check/finding.rs", rf"^    {severity}: ([\w,\s]+);")
        assert found == as_serde_has_them("-", re.split(r",\s+", codes))


def as_serde_has_them(separator: str, variants: Iterable[str]) -> set[str]:
    """Names of variants in snake case or kebab case."""
    return {re.sub(r"\B([A-Z])", rf"{separator}\1", x.strip()).lower() for x in variants}


def words(file: str, pattern: str) -> set[str]:
    """What the code calls something by."""
    return set(re.findall(pattern, (ROOT / file).read_text(), re.MULTILINE))


def documented(section: str) -> set[str]:
    """What the first column of a section's table names."""
    return {name for cells in rows(section) for name in names(cells[0])}


def rows(section: str) -> list[list[str]]:
    """The cells of the first table of a section, without its head."""
    text = re.split(rf"^#+ {section}$", REFERENCE, maxsplit=1, flags=re.MULTILINE)[1]
    text = re.split(r"^#+ ", text, maxsplit=1, flags=re.MULTILINE)[0]
    table = re.search(r"^\|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert table is not None, f"{section} has a table"
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table[1].splitlines()]


def names(cell: str) -> list[str]:
    """What a cell has in code."""
    return re.findall(r"`([\w-]+)`", cell)
