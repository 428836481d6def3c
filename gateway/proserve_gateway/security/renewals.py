"""Files that are replaced while the gateway runs: certificates and keys.

A renewed Secret in Kubernetes is a swapped symlink, so contents are compared instead of watching one file.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from proserve_core.access_keys import AccessKeysError, parse_keys

logger = logging.getLogger(__name__)

CHECK_S = 1.0
"""Between two looks at the files."""


class Renewed(Protocol):
    """Something that is made of files."""

    def renew(self) -> bool:
        """Look at the files; True if there is something new.

        Raises:
            ValueError: they have changed and can't be used; what was in force stays. Raised once for one content.
        """


class KeyFile:
    """Keys of a port, from a file (see core's `access_keys`)."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            AccessKeysError: the file can't be used.
        """
        self._path = path
        self._seen = self._read()
        self.keys = self._parse(self._seen)

    def renew(self) -> bool:
        """See `Renewed`."""
        seen = self._read()
        if seen == self._seen:
            return False
        self._seen = seen
        self.keys = self._parse(seen)
        return True

    def _read(self) -> tuple[str, str]:
        """Contents, and why there are none."""
        try:
            return self._path.read_text(encoding="utf-8"), ""
        except (OSError, UnicodeDecodeError) as error:
            return "", f"cannot be read: {getattr(error, 'strerror', None) or error}"

    def _parse(self, seen: tuple[str, str]) -> tuple[str, ...]:
        text, problem = seen
        try:
            if problem:
                raise AccessKeysError(problem)
            return parse_keys(text)
        except AccessKeysError as error:
            raise AccessKeysError(f"{self._path}: {error}") from error


async def keep_renewed(
    name: str, part: Renewed, *, on_change: Callable[[str, bool], None], every_s: float = CHECK_S
) -> None:
    """Renew a part until cancelled; `on_change(name, good)` is told each change."""
    while True:
        await asyncio.sleep(every_s)
        try:
            if not await asyncio.to_thread(part.renew):
                continue
        except ValueError as error:
            logger.error("%s: the new files are not used, the old ones stay in force: %s", name, error)
            on_change(name, False)
        else:
            logger.info("%s: the new files are in force", name)
            on_change(name, True)
