"""A DNS server on the loopback interface whose answers can be changed while it runs."""

from __future__ import annotations

import threading
import time
from ipaddress import ip_address

from dnslib import AAAA, CNAME, QTYPE, RCODE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSHandler, DNSLogger, TCPServer, UDPServer

from local.process import LOOPBACK, Failure

# What RDS gives its names.
TTL_SECONDS = 5
# A longer answer is truncated, so that the client asks again over TCP.
UDP_BYTES = 512


class DnsServer(BaseResolver):
    """Serves UDP and TCP on one port, from threads of this process. A name that nobody set is NXDOMAIN.

    With `caches` it is a resolver that others ask, too, as that of a VPC: each answer is repeated until its time to
    live is over, which counts down, and a change is seen after that.
    """

    def __init__(self, ttl: int = TTL_SECONDS, caches: bool = False) -> None:
        self._answers: dict[str, list[str] | str | int] = {}
        # What is not seen yet, and from when on it is.
        self._changes: dict[str, tuple[float, list[str]]] = {}
        self._ttl, self._caches = ttl, caches
        self._udp, self._tcp = _bind()
        for server in (self._udp, self._tcp):
            server.resolver = self
            server.logger = DNSLogger(logf=lambda _: None)
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def address(self) -> str:
        """IP:port, as DNS_SERVERS takes it."""
        host, port = self._udp.server_address[:2]
        return f"{host}:{port}"

    def answer(self, name: str, *addresses: str) -> float:
        """From now on the name has these addresses, of either family; none is an answer without data.

        Returns when that is seen, which is later where answers are cached.
        """
        now = time.monotonic()
        cached = self._caches and name.lower() in self._answers
        seen = now + self._ttl - now % self._ttl if cached else now
        self._changes[name.lower()] = (seen, list(addresses))
        self._change(name.lower())
        return seen

    def alias(self, name: str, target: str) -> None:
        """From now on the name is a CNAME."""
        self._answers[name.lower()] = target

    def fail(self, name: str, code: str) -> None:
        """From now on questions for the name end with this code: SERVFAIL, NXDOMAIN or REFUSED."""
        self._answers[name.lower()] = getattr(RCODE, code)

    def close(self) -> None:
        """Stops serving."""
        for server in (self._udp, self._tcp):
            server.shutdown()
            server.server_close()

    def resolve(self, request: DNSRecord, handler: DNSHandler) -> DNSRecord:
        """Answers one question; called by dnslib."""
        reply = request.reply()
        ttl = int(self._ttl - time.monotonic() % self._ttl) if self._caches else self._ttl
        name = str(request.q.qname).rstrip(".").lower()
        self._change(name)
        while isinstance(found := self._answers.get(name, RCODE.NXDOMAIN), str):
            reply.add_answer(RR(name, QTYPE.CNAME, rdata=CNAME(found), ttl=ttl))
            name = found.lower()
        if isinstance(found, int):
            reply.header.rcode = found
            return reply
        for address in found:
            kind, data = (QTYPE.A, A) if ip_address(address).version == 4 else (QTYPE.AAAA, AAAA)
            if request.q.qtype == kind:
                reply.add_answer(RR(name, kind, rdata=data(address), ttl=ttl))
        if handler.protocol == "udp" and len(reply.pack()) > UDP_BYTES:
            # Not by dnslib, whose truncated reply has no question and so is not taken for an answer to it.
            reply = request.reply()
            reply.header.tc = 1
        return reply

    def _change(self, name: str) -> None:
        if name in self._changes and self._changes[name][0] <= time.monotonic():
            self._answers[name] = self._changes.pop(name)[1]


def _bind() -> tuple[UDPServer, TCPServer]:
    # The system chooses a UDP port; that the TCP port of that number is free too is likely, not certain.
    for _ in range(20):
        udp = UDPServer((LOOPBACK, 0), DNSHandler)
        try:
            return udp, TCPServer(udp.server_address, DNSHandler)
        except OSError:
            udp.server_close()
    raise Failure("no port is free for both UDP and TCP")
