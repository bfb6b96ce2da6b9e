"""Stands in for the AWS provider, which can be had from the Terraform registry only.

It has the same schema, and does nothing. `terraform validate` and `terraform test` need no more, since the module's
tests mock what the provider does.

    python -m tests.terraform.provider terraform test
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

SCHEMA = Path(__file__).with_name("provider.json")
NESTING = {"single": 1, "list": 2, "set": 3}


def varint(value: int) -> bytes:
    """A number, as Protocol Buffers write it."""
    head = bytearray()
    while value > 0x7F:
        head.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*head, value])


def field(number: int, value: bytes | str | int) -> bytes:
    """A field of a message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def entries(number: int, members: Iterable[tuple[str, bytes]]) -> bytes:
    """A map."""
    return b"".join(field(number, field(1, name) + field(2, value)) for name, value in members)


def block(schema: dict[str, Any]) -> bytes:
    """Schema.Block of Terraform's protocol."""
    attributes = b"".join(
        field(
            2,
            field(1, name)
            + field(2, json.dumps(attribute["type"]))
            + field(4, int(attribute.get("required", False)))
            + field(5, int(attribute.get("optional", False)))
            + field(6, int(attribute.get("computed", False))),
        )
        for name, attribute in schema["attributes"].items()
    )
    nested = b"".join(
        field(
            3,
            field(1, name)
            + field(2, block(inner["block"]))
            + field(3, NESTING[inner["nesting_mode"]])
            + field(4, inner.get("min_items", 0))
            + field(5, inner.get("max_items", 0)),
        )
        for name, inner in schema["block_types"].items()
    )
    return attributes + nested


def schemas() -> bytes:
    """GetProviderSchema.Response of Terraform's protocol."""
    provider = json.loads(SCHEMA.read_text())
    found = field(1, field(2, b""))
    for number, kind in ((2, "resource"), (3, "data")):
        found += entries(number, ((name, field(2, block(schema))) for name, schema in provider[kind].items()))
    return found


class Nothing(grpc.GenericRpcHandler):
    """Answers what Terraform asks for the schema, and all else with nothing to object."""

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """The handler of a call."""
        if not call.method.startswith("/tfplugin6.Provider/"):
            return None
        reply = schemas() if call.method.endswith("/GetProviderSchema") else b""
        return grpc.unary_unary_rpc_method_handler(lambda *_: reply)


def main() -> int:
    """Runs the command with the provider; its exit status."""
    server = grpc.server(ThreadPoolExecutor(4), [Nothing()], options=[("grpc.max_send_message_length", -1)])
    address = {"Network": "tcp", "String": f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"}
    server.start()
    reattach = {"Protocol": "grpc", "ProtocolVersion": 6, "Pid": os.getpid(), "Test": True, "Addr": address}
    env = {**os.environ, "TF_REATTACH_PROVIDERS": json.dumps({"registry.terraform.io/hashicorp/aws": reattach})}
    try:
        return subprocess.run(sys.argv[1:], env=env, check=False).returncode
    finally:
        server.stop(0).wait()


if __name__ == "__main__":
    sys.exit(main())
