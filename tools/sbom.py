"""The list of the crates in the function, as cargo knows them, in the form of CycloneDX 1.6.

cargo-cyclonedx gives other bytes each time (CycloneDX/cyclonedx-rust-cargo#514), and `make reproduce` compares bytes.
"""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterable
from typing import Any

import tomlkit

from tools.deploy import ROOT


def sbom(name: str, targets: Iterable[str]) -> dict[str, Any]:
    """What the crate `name` is built from for any of the targets: without what only tests, or only the build, take."""
    command = ["cargo", "metadata", "--locked", "--format-version", "1"]
    packages = {(x["name"], x["version"]): x for x in json.loads(output(command))["packages"]}
    lock = tomlkit.parse((ROOT / "Cargo.lock").read_text())["package"]
    # The crates of this workspace have none.
    checksums = {(x["name"], x["version"]): x["checksum"] for x in lock if "checksum" in x}
    uses: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for target in targets:
        for crate, others in tree(name, target).items():
            uses.setdefault(crate, set()).update(others)
    (root,) = [crate for crate in uses if crate[0] == name]
    # The same for the same crates.
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(sorted([*map(list, uses)])))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "component": component(packages[root], None, "application"),
            # Another version makes other bytes.
            "properties": [{"name": "rustc", "value": output(["rustc", "--version"]).strip()}],
        },
        "components": [component(packages[x], checksums.get(x), "library") for x in sorted(uses) if x != root],
        "dependencies": [
            {"ref": purl(crate), "dependsOn": [purl(x) for x in sorted(others)]}
            for crate, others in sorted(uses.items())
        ],
    }


def tree(name: str, target: str) -> dict[tuple[str, str], set[tuple[str, str]]]:
    """Each crate that is linked, and the crates that it uses."""
    command = ["cargo", "tree", "--locked", "--package", name, "--target", target, "--edges", "normal,no-proc-macro"]
    lines = output([*command, "--prefix", "depth", "--no-dedupe", "--format", " {p}"]).splitlines()
    found: dict[tuple[str, str], set[tuple[str, str]]] = {}
    path: list[tuple[str, str]] = []
    for line in lines:
        depth, crate, version, *_ = line.split()
        this = (crate, version.removeprefix("v"))
        del path[int(depth) :]
        found.setdefault(this, set())
        if path:
            found[path[-1]].add(this)
        path.append(this)
    return found


def component(package: dict[str, Any], checksum: str | None, kind: str) -> dict[str, Any]:
    """A crate."""
    crate = (package["name"], package["version"])
    found = {
        "type": kind,
        "bom-ref": purl(crate),
        "name": crate[0],
        "version": crate[1],
        "purl": purl(crate),
        # Older crates write MIT/Apache-2.0, which SPDX does not know.
        "licenses": [{"expression": package["license"].replace("/", " OR ")}],
    }
    if checksum:
        found["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return found


def purl(crate: tuple[str, str]) -> str:
    """The name of a crate among all packages of the world."""
    return f"pkg:cargo/{crate[0]}@{crate[1]}"


def output(command: list[str]) -> str:
    """What a command prints."""
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
