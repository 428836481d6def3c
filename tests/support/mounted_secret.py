"""A Secret as the kubelet mounts it: entries are links into a folder that is swapped as a whole."""

import shutil
from collections.abc import Mapping
from pathlib import Path


class MountedSecret:
    """Files in a folder."""

    def __init__(self, folder: Path, entries: Mapping[str, bytes]) -> None:
        self._folder = folder
        self._number = 0
        self.replace(entries)

    def replace(self, entries: Mapping[str, bytes]) -> None:
        """The Secret has changed."""
        before = self._folder / f"..{self._number}"
        self._number += 1
        now = self._folder / f"..{self._number}"
        now.mkdir()
        for name, content in entries.items():
            (now / name).write_bytes(content)
        swapped = self._folder / "..data_tmp"
        swapped.symlink_to(now.name)
        swapped.rename(self._folder / "..data")
        for name in entries:
            if not (self._folder / name).is_symlink():
                (self._folder / name).symlink_to(f"..data/{name}")
        shutil.rmtree(before, ignore_errors=True)
