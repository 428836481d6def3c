"""Resource files that change: taken as a whole or refused as a whole, however the change reaches the path."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from proserve_core.resources import Resources, parse_resources
from proserve_gateway.background import Background
from proserve_gateway.configuration.configuration import ConfigurationTaker, Problems, follow
from proserve_gateway.configuration.files import ResourceFiles
from proserve_gateway.fleet.target import EngineTarget
from proserve_gateway.metrics import GatewayMetrics

LOOK_S = 0.005


def yaml(weight: object) -> str:
    return f"""\
apiVersion: proserve.dev/v1alpha1
kind: PriorityClass
metadata: {{name: only}}
spec: {{weight: {weight}, objectives: {{timeToFirstToken: 1s, timePerOutputToken: 50ms}}}}
"""


class Taker:
    """Keeps what a gateway would be given."""

    def __init__(self) -> None:
        self.weights: list[float] = []
        self.errors: list[str] = []
        self.happened = asyncio.Event()
        self.contradicts = False

    def configure(self, resources: Resources, engines: Sequence[EngineTarget]) -> None:
        self.happened.set()
        if self.contradicts:
            raise ValueError("it contradicts itself")
        assert not engines
        self.weights.append(resources.priority_classes[0].weight)

    def refused(self, error: str) -> None:
        self.errors.append(error)
        self.happened.set()

    def left_out(self, problems: Problems) -> None:
        """Files are taken as a whole or not at all."""
        self.errors += problems

    def unlisted(self, lists: int) -> None:
        raise AssertionError("files are read, not listed")

    async def next(self) -> None:
        await asyncio.wait_for(self.happened.wait(), 60)
        self.happened.clear()


@contextlib.asynccontextmanager
async def following(*files: Path, reload_signal: signal.Signals | None = None) -> AsyncIterator[Taker]:
    """What a gateway hears of these files."""

    def load() -> tuple[Resources, Sequence[EngineTarget]]:
        try:
            return parse_resources({str(file): file.read_text() for file in files}), ()
        except OSError as error:
            raise ValueError(f"cannot be read: {error}") from error

    source = ResourceFiles(files, load=load, reload_signal=reload_signal, look_s=LOOK_S)
    taker = Taker()
    task = asyncio.create_task(source.follow(taker))
    try:
        yield taker
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_a_changed_file_is_taken_over(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(yaml(1))
    async with following(file) as taker:
        file.write_text(yaml(2))
        await taker.next()
        assert taker.weights == [2]


async def test_a_change_between_reading_and_following_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(yaml(1))
    source = ResourceFiles([file], load=lambda: (parse_resources({"site": file.read_text()}), ()), look_s=LOOK_S)
    file.write_text(yaml(20))
    taker = Taker()
    task = asyncio.create_task(source.follow(taker))
    await taker.next()
    task.cancel()
    assert taker.weights == [20]


async def test_a_file_that_is_renamed_into_place_is_taken_over(tmp_path: Path) -> None:
    file, other = tmp_path / "site.yaml", tmp_path / ".site.new"
    file.write_text(yaml(1))
    async with following(file) as taker:
        other.write_text(yaml(2))
        other.replace(file)
        await taker.next()
        assert taker.weights == [2]


async def test_a_swapped_folder_as_of_a_mounted_config_map_is_taken_over(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"..v{number}").mkdir()
        (tmp_path / f"..v{number}" / "site.yaml").write_text(yaml(number))
    (tmp_path / "..data").symlink_to("..v1")
    (tmp_path / "site.yaml").symlink_to("..data/site.yaml")
    async with following(tmp_path / "site.yaml") as taker:
        (tmp_path / "..data_tmp").symlink_to("..v2")
        (tmp_path / "..data_tmp").replace(tmp_path / "..data")
        await taker.next()
        assert taker.weights == [2]


async def test_any_of_several_files_counts(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text(yaml(1))
    second.write_text("")
    async with following(first, second) as taker:
        second.write_text(yaml(1).replace("only", "other"))
        await taker.next()
        assert taker.weights == [1]


async def test_a_bad_file_is_refused_with_every_error_and_a_good_one_follows(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(yaml(1))
    async with following(file) as taker:
        file.write_text(yaml("heavy").replace("1s", "1"))
        await taker.next()
        assert not taker.weights
        assert "spec.weight" in taker.errors[0]
        assert "timeToFirstToken" in taker.errors[0]
        file.write_text(yaml(3))
        await taker.next()
        assert taker.weights == [3]


async def test_a_file_that_disappears_is_refused_and_may_come_back(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(yaml(1))
    async with following(file) as taker:
        file.unlink()
        await taker.next()
        assert "cannot be read" in taker.errors[0]
        file.write_text(yaml(4))
        await taker.next()
        assert taker.weights == [4]


async def test_what_the_gateway_finds_contradictory_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(yaml(1))
    async with following(file) as taker:
        taker.contradicts = True
        file.write_text(yaml(2))
        await taker.next()
        assert taker.errors == ["it contradicts itself"]


async def test_a_signal_has_unchanged_files_read_again(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(yaml(1))
    async with following(file, reload_signal=signal.SIGHUP) as taker:
        await asyncio.sleep(5 * LOOK_S)
        assert not taker.weights
        os.kill(os.getpid(), signal.SIGHUP)
        await taker.next()
        assert taker.weights == [1]


class BrokenOnce:
    """A source that fails, and brings something when it is started again."""

    def __init__(self) -> None:
        self.started = 0

    async def follow(self, taker: ConfigurationTaker) -> None:
        self.started += 1
        if self.started == 1:
            raise OSError("the watch broke")
        taker.configure(parse_resources({"site": yaml(5)}), ())
        await asyncio.Event().wait()


async def test_a_source_that_fails_is_told_and_started_again(caplog: pytest.LogCaptureFixture) -> None:
    taker, background, source = Taker(), Background(GatewayMetrics(), pause_s=0.01), BrokenOnce()
    background.run("configuration", lambda: follow(source, taker))
    while not taker.weights:
        await taker.next()
    await background.stop()
    assert taker.weights == [5]
    assert "the watch broke" in taker.errors[0]
    assert "the watch broke" in caplog.text
