"""What headroom (`admission.headroom`) means for the requests that wait in a pool's room and for its engines.

A request within its class's entitlement weighs `MARGIN` times what it would take to be among those that are in time, or
`LEAST_BOOST` times its class if that is more. The study's fixed factor was 4; 3 lifts the heavy class's dearest
requests as well and takes less from the others (2 does not lift them; figures in docs/admission.md), but neither would
do anything for a class that is ten times lighter than another. Where engine time or blocks are kept free for heavier
classes, a request passes over to the next one that may have them.
"""

from collections.abc import Sequence

import msgspec
import numpy as np

from proserve_core.admission.headroom import HeadroomBook
from proserve_core.routing.fleet_outlook import BLOCK_SIZE, BLOCKS, FREE_BLOCKS
from proserve_core.routing.gain_left import Mask
from proserve_core.routing.request_worth import CONSTANT_SHARERS, DECODE, TOKEN, Coefficients, demand, worth_of
from proserve_core.routing.state import EngineView, FleetView, RoutingRequest

LEAST_BOOST = 3.0
MARGIN = 2.0
MOST_BOOST = 1e6
"""Weights are whole numbers up to this."""
_LEAST_SHARE = 0.1
"""Of an engine's time that is left beside the constants of steps, whatever they are."""
_LEAST_DENSITY = 1e-12


def entitled(request: RoutingRequest, book: HeadroomBook, engines: Coefficients, cut_off: float) -> RoutingRequest:
    """The request that arrived with the weight that its class's headroom gives it.

    Args:
        engines: rows of `fleet_outlook`; without any engine nothing is known yet.
        cut_off: least gain density that is in time.
    """
    if not engines.shape[1]:
        return request
    terms, tokens = request.terms, float(request.prompt_tokens)
    needs = demand(worth_of(request), engines.mean(axis=1), tokens=tokens, cached=0.0, now_s=request.arrival_s)
    tpot_s = terms.objectives.tpot_s
    constant_s = CONSTANT_SHARERS * (engines[TOKEN] - engines[DECODE])
    book.use_capacity(float(np.maximum(_LEAST_SHARE, 1 - constant_s / tpot_s).sum()))
    work_s = float(needs.prefill_s) + request.expected_output_tokens * tpot_s * float(needs.load)
    if not book.entitled(terms.priority_class, work_s, request.arrival_s):
        return request
    needed = MARGIN * cut_off / max(float(needs.density), _LEAST_DENSITY)
    return msgspec.structs.replace(request, boost=min(max(LEAST_BOOST, needed), MOST_BOOST), entitled=True)


def blocks_free(request: RoutingRequest, book: HeadroomBook, engines: Coefficients, fleet: FleetView) -> Mask:
    """Which engines have blocks for the request beside those that are kept free for heavier classes."""
    kept = book.kept_from(request.terms.priority_class)
    if kept <= 0:
        return np.ones(engines.shape[1], dtype=np.bool_)
    heavier = book.heavier_than(request.terms.priority_class)
    theirs = np.array([_context_tokens(view, heavier) for view in fleet.engines]) / engines[BLOCK_SIZE]
    needed = np.ceil((request.prompt_tokens + 1) / engines[BLOCK_SIZE])
    free: Mask = engines[FREE_BLOCKS] + theirs - needed >= kept * engines[BLOCKS]
    return free


def _context_tokens(view: EngineView, classes: Sequence[str]) -> int:
    """KV that running requests of these classes take."""
    if view.snapshot is None:
        return 0
    totals = view.snapshot.classes
    return sum([totals[name].decode_context_tokens for name in classes if name in totals])
