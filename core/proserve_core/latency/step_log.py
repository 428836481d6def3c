"""One line per engine step, as JSON: what the step did, how long it took and how long that was expected to take.

Engines write it (`PROSERVE_STEP_LOG`), and whoever calibrates or judges predictions reads it: the steps that an engine
took under its real load are the best ones to fit a latency model to.
"""

from collections.abc import Iterable

import msgspec

from proserve_core.latency.model import StepWork


class LoggedStep(msgspec.Struct, frozen=True, kw_only=True):
    """A finished step."""

    work: StepWork
    predicted_s: float
    """By the model that the engine had when the step began."""
    wall_s: float
    """From the result before it to its own, or from the start of its planning after an idle moment."""
    cpu_s: float
    """CPU time of the engine's thread over the same span: on a CPU engine with one thread the work itself, without
    what other programs took."""
    copies_s: float = 0.0
    """Part of `wall_s` for which it waited for copies of KV blocks: not its work's."""
    ended_s: float
    """When its result was in, on the system's monotonic clock, which all processes on a machine share."""

    @property
    def work_s(self) -> float:
        """What its work took, by the wall."""
        return self.wall_s - self.copies_s


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(LoggedStep)


def encode_step(step: LoggedStep) -> bytes:
    """The step's line, with its end."""
    return _encoder.encode(step) + b"\n"


def decode_steps(lines: Iterable[bytes]) -> list[LoggedStep]:
    """The steps of complete lines; one that is still being written is left out.

    Raises:
        ValueError: a line is not a step.
    """
    try:
        return [_decoder.decode(line) for line in lines if line.endswith(b"\n")]
    except msgspec.MsgspecError as error:
        raise ValueError(f"step log: {error}") from error
