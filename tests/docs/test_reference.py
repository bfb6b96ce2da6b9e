"""The reference: it names what the template and the code have, all of it and nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
RULES = (ROOT / "docs" / "rules.md").read_text()
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
    documented = {name: cells[-1] for cells in rows(REFERENCE, "Parameters") for name in names(cells[0])}
    assert documented.keys() == template["Parameters"].keys()
    for name, parameter in template["Parameters"].items():
        default = str(parameter.get("Default", ""))
        said = documented[name].strip("`")
        assert (said in EMPTY) if default == "" else (said == default), f"{name}: {default!r}, and not {said!r}"


def test_the_settings_are_the_templates(template: dict[str, Any]) -> None:
    documented = {name for cells in rows(REFERENCE, "Settings") for name in names(cells[0])}
    assert documented == set(re.findall(r"\b([A-Z_]+)=", template["Parameters"]["Settings"]["AllowedPattern"]))


def test_the_outputs_are_the_templates(template: dict[str, Any]) -> None:
    documented = {name for cells in rows(REFERENCE, "Outputs") for name in names(cells[0])}
    assert documented == template["Outputs"].keys()


def test_the_environment_is_the_templates(template: dict[str, Any]) -> None:
    documented = {
        name for section in ("Environment", "Discovery") for cells in rows(RULES, section) for name in names(cells[0])
    }
    given = template["Resources"]["Function"]["Properties"]["Environment"]["Variables"]
    assert given.keys() <= documented


def test_the_failures_are_the_codes() -> None:
    documented = {name for cells in rows(REFERENCE, "Failures") for name in names(cells[0]) if name.islower()}
    code = (ROOT / "core" / "src" / "failure.rs").read_text()
    assert documented == set(re.findall(r'(?:=>|KIND: &str =) "([a-z_]+)"', code))


def rows(page: str, section: str) -> list[list[str]]:
    """The cells of the first table of a section, without its head."""
    text = re.split(rf"^#+ {section}$", page, maxsplit=1, flags=re.MULTILINE)[1]
    text = re.split(r"^#+ ", text, maxsplit=1, flags=re.MULTILINE)[0]
    table = re.search(r"^\|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert table is not None, f"{section} has a table"
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table[1].splitlines()]


def names(cell: str) -> list[str]:
    """What a cell has in code."""
    return re.findall(r"`(\w+)`", cell)
