"""When files that are replaced while the engine runs, as those of a mounted Secret, are to be read again."""

from collections.abc import Callable

LOOK_S = 1.0


class Look:
    """Asked at each use of a file, so that nothing has to run for it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """They were read just now."""
        self._clock = clock
        self._looked_s = clock()

    def due(self) -> bool:
        """Whether it is `LOOK_S` ago; whoever asks reads them now."""
        if self._clock() - self._looked_s < LOOK_S:
            return False
        self._looked_s = self._clock()
        return True
