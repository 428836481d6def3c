"""The best plan for each request when engine work has a price in each time bucket.

A plan says in which bucket the prefill ends, where its work is done, and which decode tokens are done where. Given
prices, the cheapest bucket is best for each piece: up to the last bucket of the prefill for the prefill, from there to
its deadline for a token. If tokens are late by the time the prefill ends, they are done too before any that earns.
Every schedule of an engine follows such a plan for each request or a worse one (preemption and late work only add).
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from proserve_lab.bound.engine import BEYOND, FLOOR, RESOURCES, SEQUENCES, TOKENS
from proserve_lab.bound.windows import Windows

Column = NDArray[np.float64]
Index = NDArray[np.intp]

_NOTHING = 1e-9


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The best plans of one group of requests, those that are worth anything."""

    row: Index
    """Rows of the group's windows."""
    end: Index
    """Place in the window where the prefill ends."""
    value: Column
    """Gain less the price of the work."""


class PlanColumns(msgspec.Struct, frozen=True, kw_only=True):
    """Plans as columns of a linear program, coordinates of their non-zero entries."""

    request: Index
    """Whose plan it is."""
    gain: Column
    row: Index
    """Resource times the number of buckets, plus bucket."""
    column: Index
    amount: Column


def best_plans(groups: Sequence[Windows], prices: Column, token_s: float) -> list[Choice]:
    """Choose for each request. `prices` has a row for each resource and a column for each bucket, gain per unit;
    `token_s` is what a token takes beyond the knee."""
    return [_choose(windows, prices, token_s) for windows in groups]


def _choose(windows: Windows, prices: Column, token_s: float) -> Choice:
    # In a run, the least of both parts of the price: not more than what any of its buckets asks.
    per_token, per_s = (
        np.minimum.reduceat(price, windows.run_starts, axis=1) for price in _decode_prices(windows, prices, token_s)
    )
    prefill = np.minimum.reduceat(_prefill_prices(windows, prices), windows.run_starts, axis=1)
    prefill = np.minimum.accumulate(prefill, axis=1)
    places = windows.can_start.shape[1]
    cheapest = np.full(windows.can_start.shape, np.inf)
    cheapest_late = np.full(len(windows.requests), np.inf)
    value = np.full(windows.can_start.shape, -np.inf)
    for place in range(places - 1, -1, -1):
        offer = per_token[:, place, None] + per_s[:, place, None] * windows.decode_s[:, place:]
        np.minimum(cheapest[:, place:], offer, out=cheapest[:, place:])
        np.minimum(cheapest_late, per_token[:, place] + per_s[:, place] * windows.late_s[:, 0], out=cheapest_late)
        margin = np.maximum(windows.further_gain - cheapest[:, place:], 0.0)
        decoding = (windows.due[:, place:] * margin).sum(axis=1) + windows.granted[:, 0]
        late = windows.late[:, place]
        decoding -= np.multiply(late, cheapest_late, out=np.zeros_like(late), where=late > 0)
        value[:, place] = windows.first_gain[:, place] + np.maximum(decoding, 0.0) - prefill[:, place]
    value[~windows.can_start] = -np.inf
    end = value.argmax(axis=1)
    best = value[np.arange(len(end)), end]
    row = np.flatnonzero(best > _NOTHING)
    return Choice(row=row, end=end[row], value=best[row])


def plan_columns(groups: Sequence[Windows], choices: Sequence[Choice], prices: Column, token_s: float) -> PlanColumns:
    """The chosen plans in full."""
    parts: list[PlanColumns] = []
    begin = 0
    for windows, choice in zip(groups, choices, strict=True):
        if len(choice.row):
            parts.append(_expand(_rows(windows, choice.row), choice.end, prices, token_s, begin))
            begin += len(choice.row)
    return PlanColumns(
        request=np.concatenate([part.request for part in parts] or [np.zeros(0, np.intp)]),
        gain=np.concatenate([part.gain for part in parts] or [np.zeros(0)]),
        row=np.concatenate([part.row for part in parts] or [np.zeros(0, np.intp)]),
        column=np.concatenate([part.column for part in parts] or [np.zeros(0, np.intp)]),
        amount=np.concatenate([part.amount for part in parts] or [np.zeros(0)]),
    )


def _expand(windows: Windows, end: Index, prices: Column, token_s: float, begin: int) -> PlanColumns:
    everyone = np.arange(len(end))
    places = np.arange(windows.can_start.shape[1])
    started = places >= end[:, None]
    per_token, per_s = _decode_prices(windows, prices, token_s)
    late_price, offset_of = _cheapest_of_runs(per_token + per_s * windows.late_s, windows.run_starts)
    run_token, run_s = (np.take_along_axis(price, offset_of, axis=1) for price in (per_token, per_s))
    prefill_price, prefill_offset = _cheapest_of_runs(_prefill_prices(windows, prices), windows.run_starts)
    prefill_place = np.where(places <= end[:, None], prefill_price, np.inf).argmin(axis=1)
    late_price = np.where(started, late_price, np.inf)
    late_place = late_price.argmin(axis=1)
    cheapest = np.full(started.shape, np.inf)
    where = np.zeros(started.shape, np.intp)
    for at in range(len(places)):
        offer = run_token[:, at, None] + run_s[:, at, None] * windows.decode_s[:, at:]
        better = started[:, at, None] & (offer < cheapest[:, at:])
        cheapest[:, at:] = np.where(better, offer, cheapest[:, at:])
        where[:, at:] = np.where(better, at, where[:, at:])
    worth = started & (cheapest < windows.further_gain)
    tokens = np.where(worth, windows.due, 0.0)
    late = windows.late[everyone, end]
    decoding = (tokens * np.where(worth, windows.further_gain - cheapest, 0.0)).sum(axis=1) + windows.granted[:, 0]
    goes_on = decoding > late * late_price[everyone, late_place]
    tokens = np.where(goes_on[:, None], tokens, 0.0)
    owner, place = np.nonzero(tokens)
    catching_up = np.flatnonzero(goes_on & (late > 0))
    owners = np.concatenate([owner, catching_up])
    done_in = where[owner, place]
    amount = np.concatenate([tokens[owner, place], late[catching_up]])
    at_floor = amount * np.concatenate([windows.decode_s[owner, place], windows.late_s[catching_up, 0]])
    buckets = prices.shape[1]
    offset = np.concatenate([offset_of[owner, done_in], offset_of[catching_up, late_place[catching_up]]])
    bucket = windows.bucket[owners, offset]
    prefill_bucket = windows.bucket[everyone, prefill_offset[everyone, prefill_place]]
    resources = (BEYOND, FLOOR, SEQUENCES, TOKENS)
    decode_amounts = (at_floor + token_s * amount, at_floor, amount, amount)
    return PlanColumns(
        request=windows.requests,
        gain=windows.first_gain[everyone, end]
        + (tokens * windows.further_gain).sum(axis=1)
        + np.where(goes_on, windows.granted[:, 0], 0.0),
        row=np.concatenate(
            [resource * buckets + bucket for resource in resources]
            + [resource * buckets + prefill_bucket for resource in resources]
        ),
        column=begin + np.concatenate([owners] * RESOURCES + [everyone] * RESOURCES),
        amount=np.concatenate([*decode_amounts, *(windows.prefill[resource, :, 0] for resource in resources)]),
    )


def _cheapest_of_runs(price: Column, starts: Index) -> tuple[Column, Index]:
    """The cheapest bucket of each run: its price, and where it is."""
    ends = [*starts[1:], price.shape[1]]
    offset = np.stack(
        [begin + price[:, begin:end].argmin(axis=1) for begin, end in zip(starts, ends, strict=True)], axis=1
    )
    return np.take_along_axis(price, offset, axis=1), offset


def _decode_prices(windows: Windows, prices: Column, token_s: float) -> tuple[Column, Column]:
    """Price in each bucket of a token apart from its time at the floor, and of that time; endless outside a life."""
    per_token = token_s * prices[BEYOND] + prices[SEQUENCES] + prices[TOKENS]
    per_s = prices[BEYOND] + prices[FLOOR]
    return np.where(windows.alive, per_token[windows.bucket], np.inf), per_s[windows.bucket]


def _prefill_prices(windows: Windows, prices: Column) -> Column:
    total = np.zeros(windows.bucket.shape)
    for resource in range(RESOURCES):
        total += prices[resource][windows.bucket] * windows.prefill[resource]
    return total


def _rows(windows: Windows, rows: Index) -> Windows:
    picked = {
        field: getattr(windows, field)[:, rows] if field == "prefill" else getattr(windows, field)[rows]
        for field in windows.__struct_fields__
        if field != "run_starts"
    }
    return Windows(run_starts=windows.run_starts, **picked)
