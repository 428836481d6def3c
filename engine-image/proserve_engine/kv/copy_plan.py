"""Which bytes go where: turns blocks to copy into few large pieces of memory.

A copy engine's speed depends on the size of a piece: 3 GB/s at 32 KB, 50 GB/s at 2 MB (vLLM's report on offloading,
docs/blocks.md). So the host's memory has the device's order, and pieces that lie side by side on both sides are one.
Where the layers of a block are neighbours, a whole block is one piece for a copy that takes all layers. A reload goes
layer by layer; there, neighbours are taken together until pieces are large enough, and arrive together.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from proserve_engine.kv.layers import KvLayers, Plane

LARGE_PIECE_BYTES = 1 << 18
"""From this size on a piece reaches half of the link's speed, about."""

Numbers: TypeAlias = NDArray[np.int64]


class Pieces:
    """Memory to copy: `size[i]` bytes from address `device[i]` to `host[i]`, or back."""

    __slots__ = ("device", "host", "size")

    def __init__(self, device: Numbers, host: Numbers, size: Numbers) -> None:
        self.device = device
        self.host = host
        self.size = size

    def __len__(self) -> int:
        return len(self.size)

    def joined(self) -> "Pieces":
        """With neighbours as one."""
        apart = (self.device[1:] != self.device[:-1] + self.size[:-1]) | (
            self.host[1:] != self.host[:-1] + self.size[:-1]
        )
        first = np.concatenate(([0], np.flatnonzero(apart) + 1))
        return Pieces(self.device[first], self.host[first], np.add.reduceat(self.size, first))


class Row:
    """Planes of some layers that are neighbours: what a block has in them lies within one block of the memory."""

    def __init__(self, device: Sequence[Plane], host: Sequence[Plane]) -> None:
        self._device: int = device[0].data_ptr()
        self._host: int = host[0].data_ptr()
        self._strides: tuple[int, int] = (device[0].stride(0), host[0].stride(0))
        self._planes = tuple(
            (there.data_ptr() - self._device, here.data_ptr() - self._host, there.shape[1])
            for there, here in zip(device, host, strict=True)
        )

    @property
    def form(self) -> tuple[Any, ...]:
        """What rows have in common that have the same pieces, at other addresses."""
        return (self._strides, self._planes)

    def pieces(self, device: Numbers, host: Numbers) -> Pieces:
        """Of blocks `device[i]` and `host[i]`, with addresses counted from the row's beginning."""
        there, here, size = np.array(self._planes, np.int64).T
        # Blocks by planes: all planes of a block come before the next block.
        return Pieces(
            (there + device[:, None] * self._strides[0]).ravel(),
            (here + host[:, None] * self._strides[1]).ravel(),
            np.tile(size, len(device)),
        ).joined()

    def placed(self, pieces: Pieces) -> Pieces:
        """The same pieces with their addresses."""
        return Pieces(pieces.device + self._device, pieces.host + self._host, pieces.size)


class Mirror:
    """The host's blocks: for each plane of the device's one of the same bytes, neighbours where those are.

    Args:
        allocate: memory of so many bytes, as a tensor of bytes.
    """

    def __init__(self, kv: KvLayers, blocks: int, allocate: Callable[[int], Any]) -> None:
        self._layers = kv.layers
        self.memory: list[Any] = []
        self._host: dict[int, Plane] = {}
        for row in _rows(plane for layer in kv.layers for plane in layer):
            width = sum(plane.shape[1] for plane in row)
            memory = allocate(blocks * width).view(blocks, width)
            self.memory.append(memory)
            first = 0
            for plane in row:
                self._host[plane.data_ptr()] = memory[:, first : first + plane.shape[1]]
                first += plane.shape[1]

    def host(self, plane: Plane) -> Plane:
        """The host's plane for one of the device's."""
        return self._host[plane.data_ptr()]

    def rows(self, layers: Iterable[int]) -> list[Row]:
        """What has to be copied for these layers."""
        rows = _rows(plane for layer in layers for plane in self._layers[layer])
        return [Row(row, [self.host(plane) for plane in row]) for row in rows]

    def reload_groups(self) -> list[range]:
        """Layers that a reload brings together, in order."""
        groups: list[range] = []
        while (first := groups[-1].stop if groups else 0) < len(self._layers):
            group = range(first, first + 1)
            while group.stop < len(self._layers):
                longer = range(first, group.stop + 1)
                if not self._piece_bytes(group) < min(LARGE_PIECE_BYTES, self._piece_bytes(longer)):
                    break
                group = longer
            groups.append(group)
        return groups

    def _piece_bytes(self, layers: range) -> float:
        """Bytes per piece of one block."""
        block = np.zeros(1, np.int64)
        sizes = np.concatenate([row.pieces(block, block).size for row in self.rows(layers)])
        return float(sizes.mean())


def pieces_of(rows: Sequence[Row], forms: dict[Any, Pieces], device: Numbers, host: Numbers) -> Pieces:
    """What copies blocks in these rows.

    Args:
        forms: pieces of the same blocks by the form of the row, for other rows that have it.
    """
    placed: list[Pieces] = []
    for row in rows:
        if (pieces := forms.get(row.form)) is None:
            pieces = forms[row.form] = row.pieces(device, host)
        placed.append(row.placed(pieces))
    return Pieces(*(np.concatenate([getattr(p, part) for p in placed]) for part in Pieces.__slots__))


def _rows(planes: Iterable[Plane]) -> list[list[Plane]]:
    """Planes whose blocks lie between each other's blocks, in order of their addresses."""
    rows: list[list[Plane]] = []
    for plane in sorted(planes, key=lambda plane: int(plane.data_ptr())):
        first = rows[-1][0] if rows else plane
        if rows and plane.stride(0) == first.stride(0) and plane.data_ptr() < first.data_ptr() + first.stride(0):
            rows[-1].append(plane)
        else:
            rows.append([plane])
    return rows
