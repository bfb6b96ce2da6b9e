"""What the end-to-end tests share: a local AWS and DNS for all of them, and the built function."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from local.cloud import Cloud, ministack
from local.deployment import package
from local.dns import DnsServer
from local.function import build
from local.process import isolate


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Shows what the function wrote beside a test that failed with it."""
    report = (yield).get_result()
    function = getattr(item, "funcargs", {}).get("function")
    if report.failed and function is not None:
        report.sections.append(("the function", function.log()))


@pytest.fixture(scope="session", autouse=True)
def _built() -> None:
    isolate()
    build()


@pytest.fixture(scope="session")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as `sam build` leaves it, beside the built function."""
    return package(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A running ministack."""
    with ministack(tmp_path_factory.mktemp("ministack")) as running:
        yield running


@pytest.fixture(scope="session")
def dns() -> Iterator[DnsServer]:
    """A running DNS server."""
    with closing(DnsServer()) as running:
        yield running


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for logs."""
    return tmp_path_factory.mktemp("function")
