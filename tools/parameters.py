"""The template's parameters: what each accepts, and the file of a stack's own values."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from samcli.yamlhelper import yaml_parse

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = ROOT / "template.yaml"


class Refused(Exception):
    """What the user has to put right; the message says what and how."""


def template() -> dict[str, Any]:
    """The template, in the long form of its functions."""
    parsed: dict[str, Any] = yaml_parse(TEMPLATE.read_text())
    return parsed


def read(path: Path, declared: Mapping[str, Any]) -> dict[str, str]:
    """The values in a parameter file, each checked; refuses what CloudFormation would refuse, and what SAM ignores."""
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise Refused(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Refused(f"{path} must be a JSON object of parameters, such as " + '{"Hostname": "…", "Port": 5432}')
    values = {name: text(value) for name, value in found.items()}
    wrong = [unknown(name, declared) for name in values if name not in declared]
    wrong += [f"{x} {why}" for x, value in values.items() if x in declared and (why := refusal(declared[x], value))]
    if wrong:
        raise Refused(f"{path}:\n  " + "\n  ".join(wrong))
    return values


def text(value: Any) -> str:
    """A value as CloudFormation takes it: lists with commas, true and false in small letters."""
    if isinstance(value, list):
        return ",".join(text(x) for x in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def refusal(parameter: Mapping[str, Any], value: str) -> str | None:
    """Why CloudFormation would refuse the value, or nothing."""
    members = [x.strip() for x in value.split(",")] if parameter["Type"] == "CommaDelimitedList" else [value]
    why: str | None = parameter.get("ConstraintDescription")
    if "AllowedValues" in parameter and value not in [str(x) for x in parameter["AllowedValues"]]:
        return f"must be {' or '.join(str(x) for x in parameter['AllowedValues'])}, not {value!r}"
    if not all(re.search(parameter.get("AllowedPattern", ""), x) for x in members):
        return f"{why}, not {value!r}"
    if len(value) > parameter.get("MaxLength", len(value)):
        return f"{why}, not {len(value)} characters"
    if parameter["Type"] == "Number" and not (
        re.fullmatch("[0-9]+", value) and parameter["MinValue"] <= int(value) <= parameter["MaxValue"]
    ):
        return f"{why}, not {value!r}"
    return None


def unknown(name: str, declared: Mapping[str, Any]) -> str:
    """What to say of a parameter that the template does not have."""
    if (setting := to_setting(name)) in known_settings(declared):
        return f"{name} is no parameter any more: put {setting}=… into Settings"
    close = difflib.get_close_matches(name, declared, 1)
    return f"{name} is no parameter of the template" + (f": did you mean {close[0]}?" if close else "")


def to_setting(name: str) -> str:
    """What a parameter is called in Settings: PollIntervalSeconds is POLL_INTERVAL_SECONDS."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper()


def known_settings(declared: Mapping[str, Any]) -> list[str]:
    """The names that Settings takes."""
    return re.findall(r"[(|]([A-Z_]+)=", declared["Settings"]["AllowedPattern"])
