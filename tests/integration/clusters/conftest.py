"""An AWS server for the session, and Prefect's test server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from prefect.testing.utilities import prefect_test_harness

from heartwatch.clusters.release import pack

SERVER = Path(__file__).with_name("aws_server.py")
REGION = "us-east-1"


@pytest.fixture(scope="module")
def machines_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder a machine, named after its instance id: the machine's disk, as far as our scripts see it."""
    return tmp_path_factory.mktemp("machines")


@pytest.fixture(scope="module")
def aws(machines_folder: Path) -> Iterator[boto3.Session]:
    """AWS, as far as moto has it; the environment leads every client there."""
    log = (machines_folder / "server.log").open("w")
    command = [sys.executable, str(SERVER), str(machines_folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        address = server.stdout.readline().strip()
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("AWS_")]:
                patch.delenv(name)
            patch.setenv("AWS_ENDPOINT_URL", address)
            patch.setenv("AWS_ACCESS_KEY_ID", "rehearsal")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "rehearsal")
            yield boto3.Session(region_name=REGION)
        server.stdin.close()
        server.wait(20)
    log.close()


@pytest.fixture(scope="module")
def release() -> Iterator[str]:
    """The project's files as they are now, so that nobody's edit during the rehearsal makes another release."""
    packed = pack()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("heartwatch.clusters.fleet.pack", lambda: packed)
        yield packed[0]


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield
