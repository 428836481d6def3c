"""Which tests stay together when pytest-xdist deals them out to its workers, and which are begun first.

Tests of a folder that start processes share what takes long to start, and some go on where the one before ended: they
stay in one worker, in order. All others go one by one to whoever has nothing to do.

xdist's own `loadgroup` does nothing with pytest 9.2: it writes groups to an attribute that is no longer read.
"""

from pathlib import PurePosixPath

from xdist.scheduler import LoadScopeScheduling

TOGETHER = ("cluster", "apiserver", "engine", "e2e", "prometheus", "browser")
"""Folders of tests/, those that take longest first: what is begun last should end soon."""


def group(nodeid: str) -> str:
    """What is dealt out as one: a folder's name, or the one test."""
    folder = PurePosixPath(nodeid.partition("::")[0]).parts[1]
    return folder if folder in TOGETHER else nodeid


def turn(nodeid: str) -> int:
    """Tests with a lower one begin earlier."""
    return {folder: place for place, folder in enumerate(TOGETHER)}.get(group(nodeid), len(TOGETHER))


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)
