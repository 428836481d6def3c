"""The capacity snapshot an engine publishes and a gateway routes on: schema and (de)serialisation.

Served as JSON by `GET /capacity`; `?after=SEQ&wait=MS` holds the reply until `seq` differs. All times are relative
(ages, time left), because engine and gateway share no clock. Numbers out of range are refused here, so that nobody who
computes with a snapshot meets a division by zero, an overflow or a negative count.
"""

from typing import Annotated

import msgspec

from proserve_core.facts import LEAST_TPOT_S
from proserve_core.latency import LatencyModel

CAPACITY_VERSION = 1
MAX_ROWS = 512

Count = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
Amount = Annotated[float, msgspec.Meta(ge=0, le=1e18)]
"""Of gain or of time."""
TimeLeft = Annotated[float, msgspec.Meta(ge=-1e18, le=1e18)]
TokenTime = Annotated[float, msgspec.Meta(ge=LEAST_TPOT_S, le=1e18)]
_MOST_COEFFICIENT_S = 1e6


class RequestRow(msgspec.Struct, frozen=True, kw_only=True):
    """One request in the engine."""

    id: str
    priority_class: str
    weight: Amount
    first_token_gain: Amount
    output_token_gain: Amount
    tpot_s: TokenTime
    decoding: bool
    resident: bool
    prefill_tokens: Count
    """Tokens left to prefill before the next token; 0 for a decode."""
    context_tokens: Count
    """Tokens whose KV is computed."""
    emitted_tokens: Count
    deadline_in_s: TimeLeft
    """Time until the next token's deadline when the snapshot was taken; negative when late."""


class ClassTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over all requests of a class, the ones beyond `MAX_ROWS` included."""

    waiting: Count = 0
    running: Count = 0
    prefill_tokens: Count = 0
    decode_context_tokens: Count = 0


class CapacitySnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """State of one engine."""

    version: int = CAPACITY_VERSION
    seq: Count
    """Grows by one with every published change; starts anew with the engine process (see `engine_id`)."""
    engine_id: str
    """Random per engine process."""
    model: str
    policy: str
    age_s: Amount
    """How old the snapshot was when it was sent."""
    block_size: Count
    blocks: Count
    free_blocks: Count
    reclaimable_blocks: Count = 0
    """Free blocks that still hold a reusable prefix (included in `free_blocks`)."""
    host_blocks: Count = 0
    free_host_blocks: Count = 0
    running: Count
    waiting: Count
    max_sequences: Count
    max_step_tokens: Count
    step_age_s: Amount | None = None
    """Time since the running step began; None while idle."""
    step_predicted_s: Amount | None = None
    latency: LatencyModel
    latency_error: Amount | None = None
    """Mean absolute percentage error of recent step predictions, as a ratio; None before the first."""
    preemptions: Count = 0
    """Since the engine started."""
    draining: bool = False
    classes: dict[str, ClassTotals] = {}
    rows: tuple[RequestRow, ...] = ()
    rows_truncated: bool = False


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(CapacitySnapshot)


class _Versioned(msgspec.Struct):
    version: int


class CapacityError(ValueError):
    """The bytes are not a capacity snapshot that this version understands."""


def encode_snapshot(snapshot: CapacitySnapshot) -> bytes:
    return _encoder.encode(snapshot)


def decode_snapshot(data: bytes) -> CapacitySnapshot:
    """Parse a snapshot.

    Raises:
        CapacityError: malformed JSON, a wrong type, a number out of range, or another major version; the message says
            which.
    """
    try:
        snapshot = _decoder.decode(data)
    except msgspec.MsgspecError as error:
        _check_version(data)
        raise CapacityError(f"not a capacity snapshot: {error}") from error
    if snapshot.version != CAPACITY_VERSION:
        _check_version(data)
    for name in LatencyModel.__struct_fields__:
        value = getattr(snapshot.latency, name)
        if not 0 <= value <= _MOST_COEFFICIENT_S:
            raise CapacityError(f"not a capacity snapshot: `$.latency.{name}` is {value:g}, not from 0 to 1e6 seconds")
    return snapshot


def _check_version(data: bytes) -> None:
    """Say so if another version is why the bytes make no sense; any other fault is the caller's to report."""
    try:
        version = msgspec.json.decode(data, type=_Versioned).version
    except msgspec.MsgspecError:
        return
    if version != CAPACITY_VERSION:
        raise CapacityError(
            f"capacity version {version} is not supported, this side speaks {CAPACITY_VERSION}: "
            "run the same proserve release on gateway and engine"
        )
