"""A consumer of the database: it writes a row each 20 ms, and remembers what was acknowledged and what was not."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg

from local.process import in_background

WRITE_SECONDS = 0.02
# What a driver's pool waits before it connects again.
RECONNECT_SECONDS = 0.1


@dataclass(frozen=True)
class Acknowledged:
    """A row that the consumer was told to be written."""

    id: int
    # The address of the server that said so, and when it was asked and had answered.
    server: str
    began: float
    ended: float


@dataclass
class Consumer:
    """One connection at a time, which is given up at an error: at any, or, if it keeps what works, at a broken one.

    A pool that keeps what works is what most drivers have; that a database has become read-only breaks nothing.
    """

    name: str
    conninfo: str
    keeps_what_works: bool = False
    written: list[Acknowledged] = field(default_factory=list)
    errors: list[tuple[float, str]] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Writes until `stop`."""
        connection: psycopg.Connection | None = None
        number = 0
        while not self._stopping.is_set():
            number += 1
            began = time.monotonic()
            try:
                if connection is None:
                    connection = psycopg.connect(self.conninfo, autocommit=True, connect_timeout=2)
                    began = time.monotonic()
                insert = "INSERT INTO writes VALUES (%s, %s) RETURNING host(inet_server_addr())"
                (server,) = connection.execute(insert, (self.name, number)).fetchone() or ("",)
                self.written.append(Acknowledged(number, server, began, time.monotonic()))
                self._stopping.wait(WRITE_SECONDS - (time.monotonic() - began))
            except psycopg.Error as error:
                self.errors.append((time.monotonic(), type(error).__name__))
                if connection is not None and not (self.keeps_what_works and not connection.broken):
                    connection.close()
                    connection = None
                self._stopping.wait(RECONNECT_SECONDS)
        if connection is not None:
            connection.close()

    def stop(self) -> None:
        """Ends it after the row that it is at."""
        self._stopping.set()

    def met(self, since: float) -> Counter[str]:
        """The errors since then, by the driver's names for them."""
        return Counter(name for at, name in list(self.errors) if at >= since)

    def last_before(self, moment: float) -> float:
        """When the last row was acknowledged before that."""
        return next((x.ended for x in reversed(list(self.written)) if x.ended <= moment), moment)

    def first_on(self, server: str, since: float) -> float | None:
        """When the first row since then was acknowledged by that server; None, for wait_for, if none yet."""
        return next((x.ended for x in list(self.written) if x.server == server and x.began >= since), None)

    def lost(self, conninfo: str) -> set[int]:
        """The rows that were acknowledged and are not there."""
        # Read first: it may be writing on.
        acknowledged = {x.id for x in list(self.written)}
        with psycopg.connect(conninfo) as connection:
            found = connection.execute("SELECT id FROM writes WHERE consumer = %s", (self.name,)).fetchall()
        return acknowledged - {number for (number,) in found}


@contextmanager
def consuming(name: str, conninfo: str, keeps_what_works: bool = False) -> Iterator[Consumer]:
    """A consumer at work for the length of a `with` block."""
    # The rows of another of that name stay.
    consumer = Consumer(f"{name} {secrets.token_hex(4)}", conninfo, keeps_what_works)
    running = in_background(consumer.run)
    try:
        yield consumer
    finally:
        consumer.stop()
        running.result(timeout=10)
