"""Class facts on the wire from gateway to engine: flat keys in the OpenAI body's `vllm_xargs`.

The gateway strips any key with `PREFIX` that a client sends and writes its own.
"""

from collections.abc import Mapping

import msgspec

from proserve_core.objectives import DEFAULT_CLASS, ServiceObjectives, ServiceTerms

PREFIX = "proserve_"
CLASS = "proserve_class"
WEIGHT = "proserve_weight"
FIRST_GAIN = "proserve_first_gain"
TOKEN_GAIN = "proserve_token_gain"
TTFT_MS = "proserve_ttft_ms"
TPOT_MS = "proserve_tpot_ms"
AGE_MS = "proserve_age_ms"
CLIENT = "proserve_client"
_KEYS = frozenset({CLASS, WEIGHT, FIRST_GAIN, TOKEN_GAIN, TTFT_MS, TPOT_MS, AGE_MS})

LEAST_TPOT_S = 1e-6
"""Time per output token that a request may ask for: loads are shares of it."""


class FactsError(ValueError):
    """A class fact is missing or is not a usable number; the message names the key."""


class RequestFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a gateway tells an engine of a request."""

    terms: ServiceTerms
    age_s: float
    client: str
    """Who sent it, "" if the gateway does not say; engines learn how long each client's answers are."""


def encode_facts(terms: ServiceTerms, age_s: float, client: str = "") -> dict[str, str | float]:
    """Facts of a request that is `age_s` old when it is sent."""
    facts: dict[str, str | float] = {
        CLASS: terms.priority_class,
        WEIGHT: terms.weight,
        FIRST_GAIN: terms.first_token_gain,
        TOKEN_GAIN: terms.output_token_gain,
        TTFT_MS: terms.objectives.ttft_s * 1e3,
        TPOT_MS: terms.objectives.tpot_s * 1e3,
        AGE_MS: age_s * 1e3,
    }
    if client:
        facts[CLIENT] = client
    return facts


def decode_facts(extra_args: Mapping[str, object] | None) -> RequestFacts | None:
    """Facts of a request; None for one without class facts (the default class).

    Raises:
        FactsError: some facts are there but one is missing, is not a number or is out of range, the class has no name,
            or the client is no text.
    """
    if not extra_args or _KEYS.isdisjoint(extra_args):
        return None
    priority_class = extra_args.get(CLASS)
    if not isinstance(priority_class, str) or not priority_class:
        raise FactsError(f"vllm_xargs.{CLASS}: expected the name of a priority class, got {priority_class!r}")
    objectives = ServiceObjectives(
        ttft_s=_number(extra_args, TTFT_MS) / 1e3,
        tpot_s=_number(extra_args, TPOT_MS, least=LEAST_TPOT_S * 1e3) / 1e3,
    )
    terms = ServiceTerms(
        priority_class=priority_class,
        weight=_number(extra_args, WEIGHT),
        first_token_gain=_number(extra_args, FIRST_GAIN),
        output_token_gain=_number(extra_args, TOKEN_GAIN),
        objectives=objectives,
    )
    client = extra_args.get(CLIENT, "")
    if not isinstance(client, str):
        raise FactsError(f"vllm_xargs.{CLIENT}: expected a text, got {client!r}")
    return RequestFacts(terms=terms, age_s=_number(extra_args, AGE_MS) / 1e3, client=client)


def default_terms() -> ServiceTerms:
    """Terms of a request without class facts."""
    return DEFAULT_CLASS.terms()


def _number(extra_args: Mapping[str, object], key: str, least: float = 0.0) -> float:
    value = extra_args.get(key)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise FactsError(f"vllm_xargs.{key}: expected a number, got {value!r}") from None
    if not least <= number < 1e12:
        raise FactsError(f"vllm_xargs.{key}: expected a number from {least:g} to 1e12, got {value!r}")
    return number
