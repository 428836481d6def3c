"""The file of requests that have ended: complete, bounded, without prompts, never in a request's way."""

import asyncio
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from fake_openai_engine import fake_engine
from fleet_builders import capacity
from gateway_builders import Gateway, gateway
from proserve_core.request_record import RecordedFleet, RecordLine
from proserve_gateway.seeing import record_file
from proserve_gateway.seeing.record_file import RecordFile, recorded_fleet


def lines(path: Path) -> list[RecordLine]:
    return [msgspec.json.decode(line, type=RecordLine) for line in path.read_bytes().splitlines()]


def fleet(running: Gateway, at_s: float = 0.0) -> RecordedFleet:
    return recorded_fleet(running.fleet.engines, routers={"tiny": "round-robin"}, at_unix_s=at_s)


def records(running: Gateway, path: Path, **options: int) -> RecordFile:
    return RecordFile(
        path, decisions=running.decisions, fleet=lambda: fleet(running), metrics=running.metrics, **options
    )


async def test_each_ended_request_is_a_line_after_the_fleet_that_served_it(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    async with fake_engine("a") as engine, gateway(engine) as running:
        (known,) = running.fleet.engines
        running.fleet.snapshot_arrived(known, capacity(policy="fcfs"))
        file = records(running, path)
        replies = [await running.chat(messages=[{"role": "user", "content": "my secret"}]) for _ in range(2)]
        await file.close()
    head, *rest = lines(path)
    assert head.fleet is not None
    assert head.fleet.routers == {"tiny": "round-robin"}
    assert [(each.name, each.policy, each.blocks) for each in head.fleet.engines] == [("a", "fcfs", 20_000)]
    assert [line.request and line.request.id for line in rest] == [
        reply.headers["x-proserve-request-id"] for reply in replies
    ]
    assert b"my secret" not in path.read_bytes()
    assert b"gold-key" not in path.read_bytes()


async def test_file_goes_on_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    async with fake_engine("a") as engine, gateway(engine) as running:
        for _ in range(2):
            file = records(running, path)
            await running.chat()
            await file.close()
            running.decisions.on_end.clear()
    assert [line.request is not None for line in lines(path)] == [False, True, False, True]


async def test_file_that_is_full_is_kept_once_and_a_new_one_begins_with_the_fleet(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    async with fake_engine("a") as engine, gateway(engine) as running:
        file = records(running, path, rotate_bytes=1)
        for _ in range(3):
            await running.chat()
            await file.flush()
        await file.close()
    assert sorted(os.listdir(tmp_path)) == ["requests.jsonl", "requests.jsonl.1"]
    for name in os.listdir(tmp_path):
        assert [line.request is not None for line in lines(tmp_path / name)] == [False, True]


async def test_disk_that_fails_costs_lines_that_are_counted_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "requests.jsonl"
    caplog.set_level("INFO")
    async with fake_engine("a") as engine, gateway(engine) as running:
        file = records(running, path)
        with monkeypatch.context() as broken:

            def full(*_: object) -> None:
                raise OSError(28, "No space left on device")

            broken.setattr(file, "_write", full)
            for _ in range(2):
                assert (await running.chat()).status_code == 200
                await file.flush()
        await running.chat()
        await file.close()
        assert running.sample("records_dropped_total") == 2
    assert len([line for line in lines(path) if line.request]) == 1
    said = [record.getMessage() for record in caplog.records if "record" in record.getMessage()]
    assert said == [
        f"{path}: requests are not recorded: No space left on device",
        f"{path}: requests are recorded again",
    ]


async def test_closing_waits_for_a_write_that_was_under_way_when_its_task_was_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "requests.jsonl"
    writing, goes_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slowly(write: Callable[..., None]) -> Callable[..., None]:
        def slow(*what: object) -> None:
            loop.call_soon_threadsafe(writing.set)
            goes_on.wait()
            write(*what)

        return slow

    async with fake_engine("a") as engine, gateway(engine) as running:
        file = records(running, path)
        monkeypatch.setattr(file, "_write", slowly(file._write))
        await running.chat()
        flushing = asyncio.create_task(file.flush())
        await writing.wait()
        flushing.cancel()
        await asyncio.wait([flushing])
        await running.chat()
        closing = asyncio.create_task(file.close())
        done, _ = await asyncio.wait([closing], timeout=0.05)
        assert not done
        goes_on.set()
        await closing
        assert running.sample("records_dropped_total") == 0
    assert [line.request is not None for line in lines(path)] == [False, True, True]


async def test_file_that_fails_when_it_is_full_is_opened_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "requests.jsonl"

    class FullFile(io.BytesIO):
        def close(self) -> None:
            super().close()
            raise OSError(28, "No space left on device")

    full = FullFile()
    full.write(b"x" * 20)
    async with fake_engine("a") as engine, gateway(engine) as running:
        file = records(running, path, rotate_bytes=20)
        monkeypatch.setattr(file, "_file", full)
        await running.chat()
        await file.flush()
        await running.chat()
        await file.close()
        assert running.sample("records_dropped_total") == 1
    assert len([line for line in lines(path) if line.request]) == 1


async def test_lines_that_nobody_writes_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_file, "WAITING_BYTES", 1)
    async with fake_engine("a") as engine, gateway(engine) as running:
        file = records(running, tmp_path / "requests.jsonl")
        for _ in range(3):
            await running.chat()
        await file.close()
        assert running.sample("records_dropped_total") == 2


def test_file_that_cannot_be_opened_is_said_at_once(tmp_path: Path) -> None:
    async def start() -> None:
        async with fake_engine("a") as engine, gateway(engine) as running:
            records(running, tmp_path / "nowhere" / "requests.jsonl")

    with pytest.raises(OSError, match=r"nowhere/requests\.jsonl"):
        asyncio.run(start())
