"""The capacity board and its HTTP side."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from engine_builders import decoding
from proserve_core.batching.explain import DecisionLog
from proserve_core.capacity import CapacitySnapshot, decode_snapshot
from proserve_core.latency.calibrations import load_calibration
from proserve_engine import capacity_server
from proserve_engine.capacity_board import CapacityBoard
from proserve_engine.capacity_server import CapacityApp, CapacityServer, CapacityServerError


def snapshot(running: int = 0) -> CapacitySnapshot:
    return CapacitySnapshot(
        seq=0, engine_id="", model="tiny", policy="fcfs", age_s=0.0, block_size=16, blocks=100, free_blocks=90,
        running=running, waiting=0, max_sequences=8, max_step_tokens=256, latency=load_calibration("cpu-tiny").latency,
    )  # fmt: skip


class Served:
    """A board behind a running server."""

    def __init__(self) -> None:
        self.board = CapacityBoard()
        self.decisions = DecisionLog()
        self.server = CapacityServer(
            CapacityApp(self.board, self.decisions, lambda: b"some_metric 1\n", unplanned="it is asleep"),
            host="127.0.0.1",
            port=0,
        )
        self.server.start()

    def request(self, path: str, method: str = "GET") -> tuple[int, bytes]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.server.port}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def capacity(self, query: str = "") -> CapacitySnapshot:
        status, body = self.request(f"/capacity{query}")
        assert status == 200
        return decode_snapshot(body)


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.server.stop()


def test_latest_snapshot_with_its_age(served: Served) -> None:
    served.board.publish(snapshot(running=1))
    served.board.publish(snapshot(running=2))
    time.sleep(0.02)
    got = served.capacity()
    assert (got.running, got.seq, got.draining) == (2, 2, False)
    assert 0.02 <= got.age_s < 60
    assert got.engine_id == served.board.engine_id


def test_before_the_first_snapshot_the_answer_is_503(served: Served) -> None:
    status, body = served.request("/capacity")
    assert status == 503
    assert "try again" in json.loads(body)["error"]["message"]


def test_reader_that_knows_the_latest_is_held_until_something_changes(served: Served) -> None:
    served.board.publish(snapshot(running=1))
    answers: list[CapacitySnapshot] = []
    reader = threading.Thread(target=lambda: answers.append(served.capacity("?after=1&wait=30000")))
    reader.start()
    while not served.board.waiting_readers:
        time.sleep(0.001)
    assert not answers
    served.board.publish(snapshot(running=7))
    reader.join()
    assert answers[0].running == 7


def test_reader_that_is_behind_is_answered_at_once(served: Served) -> None:
    served.board.publish(snapshot())
    served.board.publish(snapshot())
    start_s = time.monotonic()
    assert served.capacity("?after=1&wait=30000").seq == 2
    assert time.monotonic() - start_s < 30


def test_wait_ends_with_the_same_snapshot_when_nothing_changes(served: Served) -> None:
    served.board.publish(snapshot())
    assert served.capacity("?after=1&wait=30").seq == 1
    assert served.board.waiting_readers == 0


def test_readers_beyond_the_limit_are_not_held(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity_server, "MAX_WAITERS", 0)
    served.board.publish(snapshot())
    assert served.capacity("?after=1&wait=30000").seq == 1


@pytest.mark.parametrize("query", ["?after=x", "?wait=-1", "?after=1.5&wait=2", "?after=" + "9" * 30])
def test_unusable_numbers_are_refused_by_name(served: Served, query: str) -> None:
    served.board.publish(snapshot())
    status, body = served.request(f"/capacity{query}")
    assert status == 400
    assert query[1:].split("=")[0] in json.loads(body)["error"]["message"]


def test_drain_is_seen_in_every_later_snapshot_and_wakes_readers(served: Served) -> None:
    served.board.publish(snapshot(running=3))
    answers: list[CapacitySnapshot] = []
    reader = threading.Thread(target=lambda: answers.append(served.capacity("?after=1&wait=30000")))
    reader.start()
    while not served.board.waiting_readers:
        time.sleep(0.001)
    assert served.request("/drain", "POST") == (200, b'{"draining":true}')
    reader.join()
    assert answers[0].draining
    assert answers[0].running == 3
    served.board.publish(snapshot())
    assert served.capacity().draining
    assert served.request("/healthz") == (200, b'{"status":"draining"}')


def test_engine_is_ready_when_its_capacity_is_served(served: Served) -> None:
    assert served.request("/readyz")[0] == 503
    served.board.publish(snapshot())
    assert served.request("/readyz") == (200, b'{"status":"ok"}')


def test_health_metrics_and_wrong_requests(served: Served) -> None:
    assert served.request("/healthz") == (200, b'{"status":"ok"}')
    assert served.request("/metrics") == (200, b"some_metric 1\n")
    assert served.request("/nothing")[0] == 404
    assert served.request("/drain")[0] == 405
    assert served.request("/capacity", "POST")[0] == 405


def test_port_in_use_is_a_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CapacityServerError, match=rf"127\.0\.0\.1:{port}.*PROSERVE_CAPACITY_PORT"):
            CapacityServer(CapacityApp(CapacityBoard(), DecisionLog()), host="127.0.0.1", port=port)


def test_without_readers_the_board_wants_little() -> None:
    now_s = 0.0
    board = CapacityBoard(clock=lambda: now_s)
    wanted = [board.wanted]
    board.publish(snapshot())
    board.read()
    wanted.append(board.wanted)
    now_s = 6.0
    wanted.append(board.wanted)
    assert wanted == [False, True, False]


def test_stopping_twice_is_harmless(served: Served) -> None:
    served.server.stop()
    served.server.stop()
    with pytest.raises(urllib.error.URLError):
        served.request("/healthz")


def test_decisions_about_a_request_are_told_by_its_id_or_the_senders_part_of_it(served: Served) -> None:
    served.decisions.lost_blocks(decoding("cmpl-abc-0-00000001"), now_s=2.0)
    for request_id in ("abc", "cmpl-abc-0-00000001"):
        status, body = served.request(f"/explain/{request_id}")
        assert status == 200
        [request] = json.loads(body)["requests"]
        assert request["id"] == "cmpl-abc-0-00000001"
        assert [(each["decision"], each["age_s"]) for each in request["decisions"]] == [("loses its blocks", 2.0)]


def test_unknown_request_is_an_error_that_says_what_is_kept(served: Served) -> None:
    status, body = served.request("/explain/nobody")
    assert status == 404
    assert json.loads(body)["error"]["message"].endswith("no decision was made here yet; it is asleep")
    served.decisions.lost_blocks(decoding("somebody"), now_s=2.0)
    message = json.loads(served.request("/explain/nobody")[1])["error"]["message"]
    assert "'nobody'" in message
    assert "the latest are somebody" in message
