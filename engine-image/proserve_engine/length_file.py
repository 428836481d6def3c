"""Keeps what a policy has learned of output lengths in a file, so that an engine that starts again knows its clients.

The file is replaced as a whole, so a reader never sees half of one. What can't be read or written costs a log line and
the knowledge, never the engine.
"""

import logging
import os
from pathlib import Path

from proserve_core.batching.length_counts import LengthCounts, LengthCountsError, decode_counts, encode_counts
from proserve_core.batching.protocol import BatchingPolicy, LearnsLengths

IDLE_EVERY_S = 60.0
"""An engine without requests saves at most this often."""
BUSY_EVERY_S = 600.0
"""An engine that is never idle: saving takes a few milliseconds between two steps."""

_logger = logging.getLogger("vllm.proserve")


class LengthFile:
    """One engine's file. The policy begins with what is in it."""

    def __init__(self, path: Path, policy: BatchingPolicy, *, now_s: float) -> None:
        self._path = path
        self._policy = policy if isinstance(policy, LearnsLengths) else None
        self._saved_s = now_s
        if self._policy is None:
            _logger.warning("%s: not used, the batching policy learns no output lengths", path)
            return
        counts = _read(path)
        if counts is not None:
            self._policy.recall(counts)

    def save_if_due(self, *, now_s: float, idle: bool) -> None:
        """Save when it is time."""
        if now_s - self._saved_s >= (IDLE_EVERY_S if idle else BUSY_EVERY_S):
            self._saved_s = now_s
            self.save()

    def save(self) -> None:
        """Save now."""
        if self._policy is None:
            return
        unfinished = self._path.with_name(f"{self._path.name}.{os.getpid()}.part")
        try:
            unfinished.write_bytes(encode_counts(self._policy.learned()))
            unfinished.replace(self._path)
        except OSError as error:
            _logger.warning("%s: output lengths are not kept: %s", self._path, error.strerror)
            unfinished.unlink(missing_ok=True)


def _read(path: Path) -> LengthCounts | None:
    try:
        return decode_counts(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, LengthCountsError) as error:
        _logger.warning("%s: output lengths are learned anew: %s", path, error)
        return None
