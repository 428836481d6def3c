"""The step times of an engine without capacity are learned from the tokens that pass."""

import random

import pytest

from fleet_builders import routing_request, sent
from proserve_core.latency import LatencyModel
from proserve_core.latency.calibrations import load_calibration
from proserve_core.routing import Dispatched
from proserve_core.routing.step_watch import StepWatch

FAST = load_calibration("a100-llama-3.1-8b").latency
SLOW = LatencyModel(
    host_s=0.005,
    floor_s=0.0,
    linear_base_s=0.0,
    linear_token_s=2e-4,
    attention_s=0.0,
    context_s=1e-6,
    sequence_s=0.001,
)
"""A model on one core: prompts at a fifth of the A100's speed or less, and each sequence counts."""


class Stream:
    """An engine's streams as a gateway sees them: tokens of a step come together, in any order, with some jitter."""

    def __init__(self, watch: StepWatch, latency: LatencyModel, seed: int = 0) -> None:
        self.watch = watch
        self.latency = latency
        self.draw = random.Random(seed)
        self.dispatched: dict[str, Dispatched] = {}
        self.now_s = 0.0
        self.left: dict[str, int] = {}

    def send(self, name: str, prompt_tokens: int, output_tokens: int) -> None:
        self.dispatched[name] = sent(routing_request(prompt_tokens, name=name))
        self.left[name] = output_tokens

    def step(self) -> None:
        """All decodes and, in one go, all prompts."""
        begun = [entry for entry in self.dispatched.values() if not entry.emitted_tokens]
        decodes = [entry for entry in self.dispatched.values() if entry.emitted_tokens]
        prompts = [entry.request.prompt_tokens for entry in begun]
        self.now_s += self.latency.sums_s(
            sum(prompts) + len(decodes),
            sum(tokens * tokens for tokens in prompts),
            sum(entry.request.prompt_tokens + entry.emitted_tokens for entry in decodes),
            len(self.dispatched),
        )
        order = list(self.dispatched.values())
        self.draw.shuffle(order)
        at_s = self.now_s
        for entry in order:
            at_s += self.draw.uniform(0, 2e-5)
            self.watch.tokens(entry, 1, at_s, self.dispatched)
            entry.emitted_tokens += 1
        for entry in order:
            if entry.emitted_tokens == self.left[entry.request.id]:
                del self.dispatched[entry.request.id]


@pytest.mark.parametrize("real", [SLOW, load_calibration("h100-llama-3.1-8b").latency], ids=["slower", "faster"])
def test_speed_of_an_unknown_engine_is_learned_from_what_it_does(real: LatencyModel) -> None:
    watch = StepWatch(FAST)
    stream = Stream(watch, real)
    for number in range(1500):
        if number % 3 == 0 and len(stream.dispatched) < 24:
            stream.send(f"r{number}", stream.draw.randrange(50, 1500), stream.draw.randrange(20, 120))
        stream.step()
    assert watch.latency is not None
    for prompt, decodes in ((0, 16), (500, 16), (1000, 8)):
        work = (prompt + decodes, float(prompt * prompt), decodes * 800, decodes + (prompt > 0))
        assert watch.latency.sums_s(*work) == pytest.approx(real.sums_s(*work), rel=0.2)


def test_several_tokens_at_once_teach_nothing() -> None:
    watch = StepWatch(FAST)
    entry = sent(routing_request(100, name="only"))
    for number in range(100):
        assert not watch.tokens(entry, 8, float(number), {"only": entry})
        entry.emitted_tokens += 8
    assert watch.latency is None


def test_another_stream_is_watched_when_the_first_one_ends() -> None:
    watch = StepWatch(FAST)
    stream = Stream(watch, SLOW)
    for number in range(200):
        if not stream.dispatched:
            stream.send(f"r{number}", 10, 5)
        stream.step()
    assert watch.latency is not None
    assert watch.latency.sums_s(1, 0.0, 10, 1) == pytest.approx(SLOW.sums_s(1, 0.0, 10, 1), rel=0.1)


def test_speed_is_known_roughly_after_the_first_steps() -> None:
    watch = StepWatch(FAST)
    stream = Stream(watch, SLOW)
    for number in range(8):
        stream.send(f"r{number}", 200, 100)
        stream.step()
    assert watch.latency is not None
    assert watch.latency.sums_s(208, 40_000.0, 1600, 9) == pytest.approx(SLOW.sums_s(208, 40_000.0, 1600, 9), rel=0.6)
