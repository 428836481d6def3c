"""The capacity snapshot an engine publishes and a gateway routes on: schema and (de)serialisation.

Served as JSON by `GET /capacity`; `?after=SEQ&wait=MS` holds the reply until `seq` differs. All times are relative
(ages, time left), because engine and gateway share no clock.
"""

import msgspec

from proserve_core.latency import LatencyModel

CAPACITY_VERSION = 1
MAX_ROWS = 512


class RequestRow(msgspec.Struct, frozen=True, kw_only=True):
    """One request in the engine."""

    id: str
    priority_class: str
    weight: float
    first_token_gain: float
    output_token_gain: float
    tpot_s: float
    decoding: bool
    resident: bool
    prefill_tokens: int
    """Tokens left to prefill before the next token; 0 for a decode."""
    context_tokens: int
    """Tokens whose KV is computed."""
    emitted_tokens: int
    deadline_in_s: float
    """Time until the next token's deadline when the snapshot was taken; negative when late."""


class ClassTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over all requests of a class, the ones beyond `MAX_ROWS` included."""

    waiting: int = 0
    running: int = 0
    prefill_tokens: int = 0
    decode_context_tokens: int = 0


class CapacitySnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """State of one engine."""

    version: int = CAPACITY_VERSION
    seq: int
    """Grows by one with every published change; starts anew with the engine process (see `engine_id`)."""
    engine_id: str
    """Random per engine process."""
    model: str
    policy: str
    age_s: float
    """How old the snapshot was when it was sent."""
    block_size: int
    blocks: int
    free_blocks: int
    reclaimable_blocks: int = 0
    """Free blocks that still hold a reusable prefix (included in `free_blocks`)."""
    host_blocks: int = 0
    free_host_blocks: int = 0
    running: int
    waiting: int
    max_sequences: int
    max_step_tokens: int
    step_age_s: float | None = None
    """Time since the running step began; None while idle."""
    step_predicted_s: float | None = None
    latency: LatencyModel
    latency_error: float | None = None
    """Mean absolute percentage error of recent step predictions, as a ratio; None before the first."""
    preemptions: int = 0
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
        CapacityError: malformed JSON, a wrong type, or another major version; the message says which.
    """
    try:
        snapshot = _decoder.decode(data)
    except msgspec.MsgspecError as error:
        _check_version(data)
        raise CapacityError(f"not a capacity snapshot: {error}") from error
    if snapshot.version != CAPACITY_VERSION:
        _check_version(data)
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
