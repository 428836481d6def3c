"""Lays a pool's `pod.template` over the generated pod template.

As strategic merge patches do, without their schema: mappings are merged, lists of named things by name (or, for volume
mounts, by path), other lists and values replaced. `null` removes a field.
"""

from collections.abc import Mapping
from typing import Any

_KEYS = ("mountPath", "name", "containerPort", "topologyKey")
"""What tells the items of a list apart; the first that all items have."""


def overlaid(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `overlay` on top; neither is changed."""
    merged = dict(base)
    for key, value in overlay.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _value(merged.get(key), value)
    return merged


def _value(base: Any, overlay: Any) -> Any:
    if isinstance(overlay, Mapping):
        return overlaid(base if isinstance(base, Mapping) else {}, overlay)
    if isinstance(overlay, list) and isinstance(base, list):
        key = next((key for key in _KEYS if all(_has(item, key) for item in [*base, *overlay])), None)
        if key is not None and overlay:
            return _by_key(base, overlay, key)
    return overlay


def _has(item: Any, key: str) -> bool:
    return isinstance(item, Mapping) and key in item


def _by_key(base: list[Any], overlay: list[Any], key: str) -> list[Any]:
    laid = {item[key]: item for item in overlay}
    known = {item[key] for item in base}
    merged = [overlaid(item, laid[item[key]]) if item[key] in laid else item for item in base]
    return [*merged, *(item for item in overlay if item[key] not in known)]
