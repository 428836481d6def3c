"""Batching policies by name, as in `EnginePool.spec.engine.scheduler.policy` and on the command line."""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from proserve_core.batching.fcfs import Fcfs
from proserve_core.batching.priority import Priority
from proserve_core.batching.protocol import BatchingPolicy
from proserve_core.batching.slide_batching import SlideBatching, SlideOptions


class PolicyError(ValueError):
    """An unknown policy or a wrong option; the message lists what there is."""


class _Factory(Protocol):
    def __call__(self, options: Mapping[str, object]) -> BatchingPolicy: ...


def _fcfs(options: Mapping[str, object]) -> BatchingPolicy:
    _no_options("fcfs", options)
    return Fcfs()


def _priority(options: Mapping[str, object]) -> BatchingPolicy:
    _no_options("priority", options)
    return Priority()


def _slide_batching(options: Mapping[str, object]) -> BatchingPolicy:
    try:
        return SlideBatching(msgspec.convert(options, SlideOptions))
    except msgspec.ValidationError as error:
        known = ", ".join(field.encode_name for field in msgspec.structs.fields(SlideOptions))
        raise PolicyError(f"batching policy 'slide-batching': {error}; its options are {known}") from error


POLICIES: dict[str, _Factory] = {"fcfs": _fcfs, "priority": _priority, "slide-batching": _slide_batching}
"""A new policy is entered here; the conformance suite then runs over it."""


def make_policy(name: str, options: Mapping[str, object] | None = None) -> BatchingPolicy:
    """A fresh policy; one per engine, because a policy may keep state between steps.

    Raises:
        PolicyError: no policy has this name, or it does not take these options.
    """
    factory = POLICIES.get(name)
    if factory is None:
        raise PolicyError(f"batching policy {name!r} does not exist: use one of {', '.join(sorted(POLICIES))}")
    return factory(options or {})


def _no_options(name: str, options: Mapping[str, object]) -> None:
    if options:
        raise PolicyError(f"batching policy {name!r} takes no options: remove {', '.join(sorted(options))}")
