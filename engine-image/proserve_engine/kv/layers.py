"""The KV caches of an engine's layers as rows of blocks, whatever the attention backend's layout.

A layer's cache is one tensor, with blocks in its first dimension or, where keys and values are apart, in its second.
Some backends cut vLLM's blocks into smaller ones of their own. Here a layer is a tuple of planes, tensors of bytes with
vLLM's blocks in the first dimension; copies select along it and need to know no more.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch

LEAST_BLOCKS = 3
"""With two blocks, a dimension of blocks could not be told from that of keys and values."""

Plane: TypeAlias = Any
"""A tensor of bytes, blocks first."""
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
        return sum(plane[0].numel() for layer in self.layers for plane in layer)


def planes(name: str, cache: torch.Tensor, num_blocks: int) -> Layer:
    """The planes of one layer's cache.

    Raises:
        LayoutError: no dimension counts blocks.
    """
    if not isinstance(cache, torch.Tensor) or cache.stride(-1) != 1:
        raise LayoutError(f"layer {name}: its KV cache is no plain tensor; leave --kv-offload out for this model")
    if cache.shape[0] % num_blocks == 0:
        return (_grouped(cache.view(torch.uint8), num_blocks),)
    if cache.shape[0] == 2 and cache.shape[1] % num_blocks == 0:
        return tuple(_grouped(half, num_blocks) for half in cache.view(torch.uint8).unbind(0))
    raise LayoutError(
        f"layer {name}: a KV cache of shape {tuple(cache.shape)} has no dimension for {num_blocks} blocks; "
        "leave --kv-offload out for this model"
    )


def _grouped(cache: torch.Tensor, num_blocks: int) -> Plane:
    return cache if cache.shape[0] == num_blocks else cache.unflatten(0, (num_blocks, -1))


def checksums(blocks: torch.Tensor) -> torch.Tensor:
    """One number per block: the sum of its words, wrapped. Any single damaged word changes it."""
    rows = blocks.reshape(blocks.shape[0], -1)
    return rows.view(torch.int64).sum(1) if rows.shape[1] % 8 == 0 else rows.sum(1, dtype=torch.int64)
