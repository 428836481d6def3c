"""Streams of a pretended GPU that do everything in an odd order, within what streams and events guarantee.

What is put into a stream is done later: each stream has a speed, down to one that moves only when somebody waits for
it, so that a dependency that nobody wrote down shows as wrong bytes. Memory is the CPU's. Run by the engine
environment's interpreter only.
"""

import ctypes
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch

from proserve_engine.kv.copy_plan import Pieces

SPEEDS = (0.0, 0.0, 0.2, 0.9)
NAMES = ("compute", "out", "back", "check")


class OddEvent:
    """A place in a stream."""

    def __init__(self, stream: "OddStream") -> None:
        self.stream = stream
        self.at: int | None = None
        """When it happened."""


class OddStream:
    """What is still to be done, in order: work, or an event that happens, or one to wait for."""

    def __init__(self, name: str, speed: float) -> None:
        self.name = name
        self.speed = speed
        self.tasks: deque[Callable[[], None] | OddEvent | tuple[OddEvent]] = deque()

    @property
    def blocked_by(self) -> OddEvent | None:
        head = self.tasks[0] if self.tasks else None
        return head[0] if isinstance(head, tuple) and head[0].at is None else None


class OddStreams:
    """Implements `Streams`.

    Args:
        seed: of speeds and order; None: nothing is done before somebody waits for it.
        without: pairs of (stream that waits, stream it waits for) whose waits are left out.
    """

    def __init__(self, seed: int | None = None, *, without: Sequence[tuple[str, str]] = ()) -> None:
        self._random = random.Random(seed)
        self._lazy = seed is None
        self._without = without
        self._clock = 0
        self._streams: list[OddStream] = []
        self.compute = self.new()
        self.broken = False
        """Copies raise."""
        self.waits = 0
        """How often the host waited."""
        self.pieces: list[int] = []
        """Of each copy."""

    def current(self) -> OddStream:
        return self.compute

    def new(self) -> OddStream:
        name = NAMES[len(self._streams)]
        stream = OddStream(name, 0.0 if self._lazy else self._random.choice(SPEEDS))
        self._streams.append(stream)
        return stream

    def record(self, stream: OddStream) -> OddEvent:
        event = OddEvent(stream)
        self._put(stream, event)
        return event

    def wait(self, stream: OddStream, event: OddEvent) -> None:
        if (stream.name, event.stream.name) not in self._without:
            self._put(stream, (event,))

    def happened(self, event: OddEvent) -> bool:
        self._move()
        return event.at is not None

    def finish(self, event: OddEvent) -> None:
        self.waits += 1
        self._move()
        self._reach(event)

    def between_s(self, one: OddEvent, other: OddEvent) -> float:
        assert one.at is not None, "asked for a time before it was"
        assert other.at is not None, "asked for a time before it was"
        return (other.at - one.at) / 1e3

    def copy(self, stream: OddStream, pieces: Pieces, *, to_host: bool) -> None:
        if self.broken:
            raise RuntimeError("the link is down")
        self.pieces.append(len(pieces))
        source, target = (pieces.device, pieces.host) if to_host else (pieces.host, pieces.device)
        moves = [(int(t), int(s), int(n)) for t, s, n in zip(target, source, pieces.size, strict=True)]
        for move in moves:
            self._put(stream, lambda move=move: ctypes.memmove(*move))

    def run(self, stream: OddStream, work: Callable[[], None]) -> None:
        self._put(stream, work)

    def upload(self, numbers: Any) -> Any:
        return torch.from_numpy(numbers)

    def device_memory(self, size: int) -> Any:
        return torch.empty(size, dtype=torch.uint8)

    def host_memory(self, size: int) -> Any:
        return torch.zeros(size, dtype=torch.uint8)

    def results(self, rows: int, columns: int) -> Any:
        return torch.empty((rows, columns), dtype=torch.int64)

    def free(self, memory: Any) -> None:
        assert all(not stream.tasks for stream in self._streams if stream is not self.compute), "still in use"
        memory.fill_(0)

    def _put(self, stream: OddStream, task: Any) -> None:
        stream.tasks.append(task)
        self._move()

    def _move(self) -> None:
        """Let each stream do some of what it could."""
        for stream in self._random.sample(self._streams, len(self._streams)):
            while self._random.random() < stream.speed and stream.tasks and stream.blocked_by is None:
                self._do(stream)

    def _reach(self, event: OddEvent) -> None:
        """Do what an event needs, and nothing else."""
        while event.at is None:
            stream = event.stream
            if (blocked_by := stream.blocked_by) is not None:
                self._reach(blocked_by)
            self._do(stream)

    def _do(self, stream: OddStream) -> None:
        self._clock += 1
        task = stream.tasks.popleft()
        if isinstance(task, OddEvent):
            task.at = self._clock
        elif callable(task):
            # As the engine runs it: a real stream is given the work there and then.
            with torch.inference_mode():
                task()


class HostComputes(OddStreams):
    """The same beside an engine that computes on the host: at once, so what it waits for is done there and then."""

    def new(self) -> OddStream:
        stream = super().new()
        # Nobody waits for copies behind steps, and as long as they are under way their blocks are not free.
        stream.speed = 0.0 if stream.name == "compute" else 0.1
        return stream

    def record(self, stream: OddStream) -> OddEvent:
        event = super().record(stream)
        if stream is self.compute:
            self._reach(event)
        return event

    def wait(self, stream: OddStream, event: OddEvent) -> None:
        if stream is self.compute:
            self._reach(event)
        else:
            super().wait(stream, event)
