"""A running `proserve up` with two emulated engines, shared by the tests that leave it as it was."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from running_proserve import RunningProserve, engine_key_file

EXAMPLE = Path(__file__).parents[2] / "examples" / "quickstart.yaml"
ANY_PORTS = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0")
START_LIMIT_S = 300.0


def start_up(folder: Path) -> RunningProserve:
    keys = ("--engine-key-file", engine_key_file(folder))
    return RunningProserve(["up", "-f", str(EXAMPLE), "--engine", "emulated", *keys, *ANY_PORTS], folder=folder)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProserve]:
    """For tests that send requests and nothing worse."""
    running = start_up(tmp_path_factory.mktemp("up"))
    try:
        running.wait_ready(START_LIMIT_S)
        yield running
    finally:
        running.end()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RunningProserve]:
    """For tests that break it."""
    running = start_up(tmp_path)
    try:
        running.wait_ready(START_LIMIT_S)
        yield running
    finally:
        running.end()
