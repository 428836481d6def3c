"""Batching policies by name, as in `EnginePool.spec.engine.scheduler.policy` and on the command line."""

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

import msgspec

from proserve_core.batching.density import Density
from proserve_core.batching.edf import Edf, EdfOptions
from proserve_core.batching.fair_batching import FairBatching
from proserve_core.batching.fcfs import Fcfs
from proserve_core.batching.priority import Priority
from proserve_core.batching.protocol import BatchingPolicy
from proserve_core.batching.qoserve import QoServe, QoServeOptions
from proserve_core.batching.recoverable_gain import RecoverableGain
from proserve_core.batching.sarathi import Sarathi
from proserve_core.batching.sarathi_priority import SarathiPriority
from proserve_core.batching.slide_batching import SlideBatching, SlideOptions
from proserve_core.batching.sliding_serve import SlidingOptions, SlidingServe
from proserve_core.batching.srpf import Srpf
from proserve_core.batching.step_tokens import StepTokensOptions
from proserve_core.batching.weighted_vtc import VtcOptions, WeightedVtc

Options = TypeVar("Options", bound=msgspec.Struct)


class PolicyError(ValueError):
    """An unknown policy or a wrong option; the message lists what there is."""


class _Factory(Protocol):
    def __call__(self, name: str, options: Mapping[str, object]) -> BatchingPolicy: ...


def _plain(make: Callable[[], BatchingPolicy]) -> _Factory:
    """Factory of a policy without options."""

    def factory(name: str, options: Mapping[str, object]) -> BatchingPolicy:
        if options:
            raise PolicyError(f"batching policy {name!r} takes no options: remove {', '.join(sorted(options))}")
        return make()

    return factory


def _with_options(make: Callable[[Options], BatchingPolicy], kind: type[Options]) -> _Factory:
    """Factory of a policy whose options are a struct of `kind`."""

    def factory(name: str, options: Mapping[str, object]) -> BatchingPolicy:
        try:
            return make(msgspec.convert(options, kind))
        except msgspec.ValidationError as error:
            known = ", ".join(field.encode_name for field in msgspec.structs.fields(kind))
            raise PolicyError(f"batching policy {name!r}: {error}; its options are {known}") from error

    return factory


POLICIES: dict[str, _Factory] = {
    "density": _with_options(Density, StepTokensOptions),
    "edf": _with_options(Edf, EdfOptions),
    "fair-batching": _plain(FairBatching),
    "fcfs": _plain(Fcfs),
    "priority": _plain(Priority),
    "qoserve": _with_options(QoServe, QoServeOptions),
    "recoverable-gain": _plain(RecoverableGain),
    "sarathi": _with_options(Sarathi, StepTokensOptions),
    "sarathi-priority": _with_options(SarathiPriority, StepTokensOptions),
    "slide-batching": _with_options(SlideBatching, SlideOptions),
    "sliding-serve": _with_options(SlidingServe, SlidingOptions),
    "srpf": _with_options(Srpf, StepTokensOptions),
    "weighted-vtc": _with_options(WeightedVtc, VtcOptions),
}
"""A new policy is entered here; the conformance suite then runs over it."""


def make_policy(name: str, options: Mapping[str, object] | None = None) -> BatchingPolicy:
    """A fresh policy; one per engine, because a policy may keep state between steps.

    Raises:
        PolicyError: no policy has this name, or it does not take these options.
    """
    factory = POLICIES.get(name)
    if factory is None:
        raise PolicyError(f"batching policy {name!r} does not exist: use one of {', '.join(sorted(POLICIES))}")
    return factory(name, options or {})
