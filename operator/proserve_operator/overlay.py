"""Lays a pool's `pod.template` over the generated pod template.

As strategic merge patches do, without their schema: mappings are merged, lists of named things by name (or, for volume
mounts, by path), other lists and values replaced. `null` removes a field.
"""

from collections.abc import Mapping
from typing import Any

_KEYS = ("mountPath", "name", "containerPort", "topologyKey")
"""What tells the items of a list apart; the first that all items have."""


class OverlayError(ValueError):
    """The overlay does not have the form of what it is laid over; the message names the field."""


def overlaid(base: Mapping[str, Any], overlay: Mapping[str, Any], *, path: str = "") -> dict[str, Any]:
    """`base` with `overlay` on top; neither is changed. `path` is the overlay's place in its resource.

    Raises:
        OverlayError: a mapping or a list is something else in the overlay.
    """
    merged = dict(base)
    for key, value in overlay.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _value(merged.get(key), value, f"{path}.{key}" if path else key)
    return merged


def _value(base: Any, overlay: Any, path: str) -> Any:
    for form, name in ((Mapping, "a mapping"), (list, "a list")):
        if isinstance(base, form) and not isinstance(overlay, form):
            raise OverlayError(f"{path}: is {overlay!r}, must be {name}; correct it, or null removes the field")
    if isinstance(overlay, Mapping):
        return overlaid(base if isinstance(base, Mapping) else {}, overlay, path=path)
    if isinstance(overlay, list) and isinstance(base, list):
        key = next((key for key in _KEYS if all(_has(item, key) for item in [*base, *overlay])), None)
        if key is not None and overlay:
            return _by_key(base, overlay, key, path)
    return overlay


def _has(item: Any, key: str) -> bool:
    return isinstance(item, Mapping) and key in item


def _by_key(base: list[Any], overlay: list[Any], key: str, path: str) -> list[Any]:
    for number, item in enumerate(overlay):
        if not isinstance(item[key], str | int):
            raise OverlayError(f"{path}[{number}].{key}: is {item[key]!r}, must be a string or a number")
    laid = {item[key]: item for item in overlay}
    known = {item[key] for item in base}
    merged = [
        overlaid(item, laid[item[key]], path=f"{path}[{item[key]}]") if item[key] in laid else item for item in base
    ]
    return [*merged, *(item for item in overlay if item[key] not in known)]
