"""Writes tests/terraform/provider.json: what the AWS provider's schema says of all that terraform/ uses.

The provider itself can be had from the Terraform registry only. Its schema is in the npm package of the prebuilt
bindings, which are generated from it: each attribute and block with its type, and whether it is required.

Run it after a new resource type came into terraform/, or for another version of the provider:

    python -m tools.provider_schema

It needs npm. The tests need neither npm nor the package.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = ROOT / "tests/terraform/provider.json"
PACKAGE = "@cdktf/provider-aws@21.22.1"

FIELD = re.compile(
    r"^ +(\w+): \{\n +value: (.+),\n +isBlock: (true|false),\n +type: \"(\w+)\",\n +storageClassType: \"(\w+)\",$",
    re.MULTILINE,
)
COMPUTED = re.compile(r"^    get \w+\(\) \{\n        return this\.get(\w+)Attribute\('(\w+)'\);", re.MULTILINE)
# Of objects that the provider makes.
OBJECTS = re.compile(r"= new \w+List\(this, ['\"](\w+)['\"], (?:true|false)\);")
MEMBER = re.compile(r"^    readonly (\w+)(\??): (.+)$", re.MULTILINE)
USED = re.compile(r'^(resource|data)\s+"(aws_\w+)"', re.MULTILINE)
# What has a value of the provider's own where it is not set. The bindings do not tell which attributes these are.
COMPUTED_TOO = ("id", "region")
TYPES = {
    "Boolean": "bool",
    "List": ["list", "string"],
    "Number": "number",
    "String": "string",
    "boolean": "bool",
    "number": "number",
    "numberList": ["list", "number"],
    "string": "string",
    "stringList": ["list", "string"],
    "stringMap": ["map", "string"],
}


class Bindings:
    """What the bindings say of one resource type or data source."""

    def __init__(self, package: tarfile.TarFile, folder: str) -> None:
        self.code = read(package, f"package/lib/{folder}/index.js")
        self.types = read(package, f"package/lib/{folder}/index.d.ts")

    def schema(self) -> dict[str, Any]:
        """The schema of the type as a whole."""
        start = self.code.index("    synthesizeHclAttributes() {")
        (config,) = re.findall(
            r"^export interface (\w+) extends cdktf\.TerraformMetaArguments", self.types, re.MULTILINE
        )
        block = self.block(self.code[start:], config)
        main = self.code[self.code.rindex("\nclass ", 0, start) : start]
        for kind, name in COMPUTED.findall(main):
            if name not in block["attributes"] and name not in block["block_types"]:
                block["attributes"][name] = {"type": TYPES[kind], "computed": True}
        for name in OBJECTS.findall(self.code[self.code.rindex("\nclass ", 0, start) :]):
            if name not in block["attributes"] and name not in block["block_types"]:
                block["attributes"][name] = {"type": ["list", "string"], "computed": True}
        return block

    def block(self, code: str, interface: str) -> dict[str, Any]:
        """The schema of a block: `code` lists its fields, `interface` tells which of them are required."""
        end = code.index("// remove undefined attributes")
        start = re.search(rf"^export interface {interface} .*$", self.types, re.MULTILINE)
        if start is None:
            raise LookupError(interface)
        members = {
            name: (optional == "", kind)
            for name, optional, kind in MEMBER.findall(self.types[start.end() : self.types.index("\n}", start.end())])
        }
        attributes: dict[str, Any] = {}
        blocks: dict[str, Any] = {}
        for name, value, is_block, nesting, storage in FIELD.findall(code[:end]):
            (member,) = set(re.findall(r"(?:struct\.|this\._)(\w+?)(?:\.internalValue)?\)", value))
            required, kind = members[member]
            if is_block == "false":
                attributes[name] = {
                    "type": attribute_type(nesting, storage),
                    "required" if required else "optional": True,
                }
                if name in COMPUTED_TOO and not required:
                    attributes[name]["computed"] = True
                continue
            (inner,) = [x for x in re.findall(r"(\w+)ToHclTerraform", value) if x[0].islower() and x not in TYPES]
            body = self.code[self.code.index(f"\nfunction {inner}ToHclTerraform(") :]
            blocks[name] = {
                "nesting_mode": "single" if nesting == "struct" else nesting,
                "block": self.block(body, inner[0].upper() + inner[1:]),
            }
            if required:
                blocks[name]["min_items"] = 1
            if nesting != "struct" and "[]" not in kind:
                blocks[name]["max_items"] = 1
        return {"attributes": attributes, "block_types": blocks}


def attribute_type(nesting: str, storage: str) -> Any:
    """The type as Terraform writes it."""
    found = TYPES[storage]
    return ["set", found[1]] if nesting == "set" else found


def read(package: tarfile.TarFile, path: str) -> str:
    """A file of the package."""
    member = package.extractfile(path)
    if member is None:
        raise LookupError(path)
    return member.read().decode()


def main() -> int:
    """Writes the file."""
    used = sorted({x for path in ROOT.glob("terraform/**/*.tf") for x in USED.findall(path.read_text())})
    with tempfile.TemporaryDirectory() as work:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=work, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(work).glob("*.tgz")
        with tarfile.open(archive) as package:
            version = json.loads(read(package, "package/package.json"))["cdktf"]["provider"]["version"]
            found: dict[str, dict[str, Any]] = {"resource": {}, "data": {}}
            for kind, name in used:
                folder = name.removeprefix("aws_").replace("_", "-")
                folder = f"data-aws-{folder}" if kind == "data" else folder
                found[kind][name] = Bindings(package, folder).schema()
    lines = [f'"provider": "hashicorp/aws {version}"', f'"source": "npm {PACKAGE}"']
    for kind, schemas in found.items():
        members = [f"  {json.dumps(name)}: {json.dumps(schema, sort_keys=True)}" for name, schema in schemas.items()]
        lines.append(f"{json.dumps(kind)}: {{\n" + ",\n".join(members) + "\n}")
    SCHEMA.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{SCHEMA.relative_to(ROOT)}: {len(used)} types of hashicorp/aws {version}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
