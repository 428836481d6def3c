"""The pace of capacity snapshots."""

from proserve_core.capacity import CapacitySnapshot
from proserve_core.latency.calibrations import load_calibration
from proserve_engine.capacity_board import CapacityBoard
from proserve_engine.metrics import EngineMetrics
from proserve_engine.vllm.publisher import Publisher


class Paced:
    """A publisher on a clock of its own. Building a snapshot takes `cost_s`."""

    def __init__(self, cost_s: float = 0.0001) -> None:
        self.now_s = 0.0
        self.cost_s = cost_s
        self.board = CapacityBoard(clock=lambda: self.now_s)
        self.publisher = Publisher(self.board, EngineMetrics("fcfs"), clock=lambda: self.now_s)

    def build(self) -> CapacitySnapshot:
        self.now_s += self.cost_s
        return CapacitySnapshot(
            seq=0, engine_id="", model="m", policy="fcfs", age_s=0.0, block_size=16, blocks=9, free_blocks=9,
            running=0, waiting=0, max_sequences=8, max_step_tokens=256, latency=load_calibration("cpu-tiny").latency,
        )  # fmt: skip

    def published_in(self, seconds: float, step_s: float) -> int:
        count = 0
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.board.read()
            if self.publisher.due(idle=False):
                self.publisher.publish(self.build, idle=False)
                count += 1
            self.now_s += step_s
        return count


def test_readers_get_about_a_hundred_snapshots_a_second() -> None:
    assert 80 <= Paced().published_in(1.0, step_s=0.001) <= 101


def test_snapshots_never_take_more_than_a_fiftieth_of_the_time() -> None:
    paced = Paced(cost_s=0.002)
    assert paced.published_in(2.0, step_s=0.001) * 0.002 <= 0.04 + 0.002


def test_without_readers_there_is_one_a_second() -> None:
    paced = Paced()
    paced.publisher.publish(paced.build, idle=False)
    paced.now_s += 0.9
    assert not paced.publisher.due(idle=False)
    paced.now_s += 0.2
    assert paced.publisher.due(idle=False)


def test_idle_is_said_once_and_at_once() -> None:
    paced = Paced()
    paced.publisher.publish(paced.build, idle=False)
    assert paced.publisher.due(idle=True)
    paced.publisher.publish(paced.build, idle=True)
    assert not paced.publisher.due(idle=True)
