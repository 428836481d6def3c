"""The KV caches of an engine's layers as rows of blocks, whatever the attention backend's layout.

vLLM hands out a tensor per layer. Its first dimension counts blocks, or the second where keys and values are apart;
some backends cut vLLM's blocks into smaller ones of their own. What is behind that is a matter of strides: heads before
tokens or behind them, all layers of a block side by side, or heads outside of everything (vLLM 0.28 lets each attention
backend choose, from 0.29 on there are six layouts). Here a layer is a tuple of planes: tensors of bytes with vLLM's
blocks in the first dimension, of each block the bytes that lie in one run of memory. Copies need to know no more.
"""

from collections.abc import Mapping
from itertools import product
from typing import Any, TypeAlias

import torch

LEAST_BLOCKS = 3
"""With two blocks, a dimension of blocks could not be told from that of keys and values."""

Plane: TypeAlias = Any
"""Bytes, (blocks, bytes of a run): block b's begin `b * stride(0)` behind the first one's and have no gaps."""
Layer = tuple[Plane, ...]


class LayoutError(RuntimeError):
    """A KV cache of a form that copies know nothing of."""


class KvLayers:
    """The layers in the order in which they compute. Layers that share a cache are one."""

    def __init__(self, caches: Mapping[str, torch.Tensor], num_blocks: int) -> None:
        if num_blocks < LEAST_BLOCKS:
            raise LayoutError(f"{num_blocks} KV blocks are too few to offload any: give the engine more memory")
        self.layers: list[Layer] = []
        self.number: dict[str, int] = {}
        """Place of a layer by its name."""
        seen: dict[int, int] = {}
        for name, cache in caches.items():
            place = seen.setdefault(cache.data_ptr(), len(self.layers))
            if place == len(self.layers):
                self.layers.append(planes(name, cache, num_blocks))
            self.number[name] = place

    @property
    def block_bytes(self) -> int:
        """Of one block over all layers."""
        return sum(plane.shape[1] for layer in self.layers for plane in layer)


def planes(name: str, cache: torch.Tensor, num_blocks: int) -> Layer:
    """The planes of one layer's cache.

    Raises:
        LayoutError: no dimension counts blocks.
    """
    if not isinstance(cache, torch.Tensor) or cache.stride(-1) != 1:
        raise LayoutError(f"layer {name}: its KV cache is no plain tensor; leave --kv-offload out for this model")
    content = cache.view(torch.uint8)
    dimensions = list(zip(content.shape, content.stride(), strict=True))
    counted = _blocks_in(content.shape, num_blocks)
    if counted is None:
        raise LayoutError(
            f"layer {name}: a KV cache of shape {tuple(cache.shape)} has no dimension for {num_blocks} blocks; "
            "leave --kv-offload out for this model"
        )
    kernel_blocks, kernel_stride = dimensions.pop(counted)
    pieces = kernel_blocks // num_blocks
    dimensions.append((pieces, kernel_stride))
    run = 1
    apart: list[tuple[int, int]] = []
    for size, stride in sorted((d for d in dimensions if d[0] > 1), key=lambda dimension: dimension[1]):
        if stride == run and not apart:
            run *= size
        else:
            apart.append((size, stride))
    offsets = [sum(place) for place in product(*(range(0, size * stride, stride) for size, stride in reversed(apart)))]
    return tuple(
        content.as_strided((num_blocks, run), (pieces * kernel_stride, 1), content.storage_offset() + offset)
        for offset in offsets
    )


def checksums(blocks: torch.Tensor) -> torch.Tensor:
    """One number per block of a plane: the sum of its words, wrapped. Any single damaged word changes it."""
    return words(blocks).sum(-1, dtype=torch.int64)


def words(plane: torch.Tensor) -> torch.Tensor:
    """The same bytes as larger numbers, where they are laid out for that."""
    places = (plane.shape[-1], plane.storage_offset(), *plane.stride()[:-1])
    return plane.view(torch.int64) if all(place % 8 == 0 for place in places) else plane


def _blocks_in(shape: torch.Size, num_blocks: int) -> int | None:
    """The dimension that counts blocks."""
    if shape[0] % num_blocks == 0:
        return 0
    return 1 if shape[0] == 2 and shape[1] % num_blocks == 0 else None
