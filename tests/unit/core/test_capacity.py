"""Capacity snapshots survive the wire; what is not one, or not of this version, is refused with the reason."""

import json
from typing import Any

import msgspec
import pytest

from proserve_core.capacity import (
    CAPACITY_VERSION,
    CapacityError,
    CapacitySnapshot,
    ClassTotals,
    RequestRow,
    decode_snapshot,
    encode_snapshot,
)
from proserve_core.latency import LatencyModel

SNAPSHOT = CapacitySnapshot(
    seq=7,
    engine_id="e1",
    model="tiny",
    policy="fcfs",
    age_s=0.003,
    block_size=16,
    blocks=100,
    free_blocks=40,
    running=1,
    waiting=1,
    max_sequences=8,
    max_step_tokens=512,
    step_age_s=0.001,
    latency=LatencyModel(
        host_s=0.002,
        floor_s=0.006,
        linear_base_s=0.001,
        linear_token_s=5e-5,
        attention_s=1e-9,
        context_s=2e-8,
        sequence_s=1e-5,
    ),
    classes={"high": ClassTotals(waiting=1, running=1, prefill_tokens=90, decode_context_tokens=30)},
    rows=(
        RequestRow(
            id="r1",
            priority_class="high",
            weight=4,
            first_token_gain=10,
            output_token_gain=1,
            tpot_s=0.04,
            decoding=True,
            resident=True,
            prefill_tokens=0,
            context_tokens=30,
            emitted_tokens=3,
            deadline_in_s=-0.01,
        ),
    ),
)


def altered(**fields: object) -> bytes:
    return json.dumps(json.loads(encode_snapshot(SNAPSHOT)) | fields).encode()


def test_decode_gives_back_what_was_encoded() -> None:
    assert decode_snapshot(encode_snapshot(SNAPSHOT)) == SNAPSHOT


def test_fields_of_a_newer_minor_release_are_ignored() -> None:
    assert decode_snapshot(altered(temperature_c=55)) == SNAPSHOT


def test_fields_an_older_release_did_not_send_take_their_defaults() -> None:
    fields = json.loads(encode_snapshot(SNAPSHOT))
    del fields["host_blocks"], fields["draining"], fields["rows"]

    assert decode_snapshot(json.dumps(fields).encode()) == msgspec.structs.replace(SNAPSHOT, rows=())


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"", "truncated"),
        (b"<html>502</html>", "malformed"),
        (b"[]", "object"),
        (b"{}", "seq"),
        (altered(free_blocks="many"), r"\$\.free_blocks"),
        (altered(version="one"), r"\$\.version"),
    ],
)
def test_anything_else_is_refused_with_the_reason(data: bytes, names: str) -> None:
    with pytest.raises(CapacityError, match=f"not a capacity snapshot.*{names}"):
        decode_snapshot(data)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("rows.0.tpot_s", 0),
        ("rows.0.tpot_s", 1e-300),
        ("rows.0.weight", -1),
        ("rows.0.prefill_tokens", 10**15),
        ("classes.high.waiting", -1),
        ("latency.context_s", -1e-9),
        ("latency.floor_s", 1e300),
        ("age_s", 1e300),
        ("free_blocks", -1),
    ],
)
def test_number_that_no_engine_can_mean_is_refused_by_name(path: str, value: float) -> None:
    fields = json.loads(encode_snapshot(SNAPSHOT))
    place: Any = fields
    *parents, name = path.split(".")
    for parent in parents:
        place = place[int(parent) if parent.isdigit() else parent]
    place[name] = value

    with pytest.raises(CapacityError, match=rf"not a capacity snapshot: .*\.{name}`"):
        decode_snapshot(json.dumps(fields).encode())


@pytest.mark.parametrize("fields", [{}, {"blocks": {"device": 100, "host": 0}}], ids=["same fields", "other fields"])
def test_other_version_is_named_whatever_its_fields_are(fields: dict[str, object]) -> None:
    data = altered(version=CAPACITY_VERSION + 1, **fields)

    with pytest.raises(CapacityError, match=f"version {CAPACITY_VERSION + 1} .* speaks {CAPACITY_VERSION}"):
        decode_snapshot(data)
