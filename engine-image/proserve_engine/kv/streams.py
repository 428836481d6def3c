"""What copies on a GPU are made of: streams, events, memory that copy engines reach, and a copy of many pieces.

`vllm.cuda_streams` has them for CUDA. Tests have an implementation that does everything as late, as early or in as odd
an order as streams allow.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from proserve_engine.kv.copy_plan import Pieces

Stream: TypeAlias = Any
Event: TypeAlias = Any
Tensor: TypeAlias = Any


class Streams(Protocol):
    """One device. Nothing here waits for the device, except for `finish`."""

    def current(self) -> Stream:
        """Where the caller's computations go."""

    def new(self) -> Stream:
        """A stream of one's own, behind computations where both could run."""

    def record(self, stream: Stream) -> Event:
        """An event that happens when all before it in the stream is done."""

    def wait(self, stream: Stream, event: Event) -> None:
        """What comes next in the stream begins after the event."""

    def happened(self, event: Event) -> bool:
        """Whether it has."""

    def finish(self, event: Event) -> None:
        """Until it has happened."""

    def between_s(self, one: Event, other: Event) -> float:
        """Time from one event to another, both of which have happened."""

    def copy(self, stream: Stream, pieces: Pieces, *, to_host: bool) -> None:
        """Copy in the stream."""

    def run(self, stream: Stream, work: Callable[[], None]) -> None:
        """Compute in the stream. What the work makes is the stream's own."""

    def upload(self, numbers: Any) -> Tensor:
        """Within `run`: an array of the host's, on the device."""

    def device_memory(self, size: int) -> Tensor:
        """Bytes on the device."""

    def host_memory(self, size: int) -> Tensor:
        """Bytes on the host that copies can reach.

        Raises:
            MemoryError, RuntimeError: there are not so many.
        """

    def results(self, rows: int, columns: int) -> Tensor:
        """Numbers on the host for the device to write to, few."""

    def free(self, memory: Tensor) -> None:
        """Give `host_memory` back."""
