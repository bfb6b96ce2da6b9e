"""A DNS server on the loopback interface whose answers can be changed while it runs."""

from __future__ import annotations

import threading
from ipaddress import ip_address

from dnslib import AAAA, CNAME, QTYPE, RCODE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSHandler, DNSLogger, TCPServer, UDPServer

from local.process import LOOPBACK, Failure

# What RDS gives its names.
TTL_SECONDS = 5
# A longer answer is truncated, so that the client asks again over TCP.
UDP_BYTES = 512


class DnsServer(BaseResolver):
    """Serves UDP and TCP on one port, from threads of this process. A name that nobody set is NXDOMAIN."""

    def __init__(self) -> None:
        self._answers: dict[str, list[str] | str | int] = {}
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

    def answer(self, name: str, *addresses: str) -> None:
        """From now on the name has these addresses, of either family; none is an answer without data."""
        self._answers[name.lower()] = list(addresses)

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
        name = str(request.q.qname).rstrip(".").lower()
        while isinstance(found := self._answers.get(name, RCODE.NXDOMAIN), str):
            reply.add_answer(RR(name, QTYPE.CNAME, rdata=CNAME(found), ttl=TTL_SECONDS))
            name = found.lower()
        if isinstance(found, int):
            reply.header.rcode = found
            return reply
        for address in found:
            kind, data = (QTYPE.A, A) if ip_address(address).version == 4 else (QTYPE.AAAA, AAAA)
            if request.q.qtype == kind:
                reply.add_answer(RR(name, kind, rdata=data(address), ttl=TTL_SECONDS))
        if handler.protocol == "udp" and len(reply.pack()) > UDP_BYTES:
            # Not by dnslib, whose truncated reply has no question and so is not taken for an answer to it.
            reply = request.reply()
            reply.header.tc = 1
        return reply


def _bind() -> tuple[UDPServer, TCPServer]:
    # The system chooses a UDP port; that the TCP port of that number is free too is likely, not certain.
    for _ in range(20):
        udp = UDPServer((LOOPBACK, 0), DNSHandler)
        try:
            return udp, TCPServer(udp.server_address, DNSHandler)
        except OSError:
            udp.server_close()
    raise Failure("no port is free for both UDP and TCP")
