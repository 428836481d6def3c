"""Whose blocks are taken when others need them.

What the preemption of a request costs, in gain: it either comes back or it doesn't.

- Coming back takes `return_s` engine seconds, restoring or computing its blocks again, whichever is quicker
  (`restore.best_split`); an engine second is worth `price`, the gain per second of who would have had it. And it is
  late by then: of its `value` only `value_back` is left.
- Given up, it loses `value`, and saves the `rest_s` engine seconds that it still needed, at the same price.

    loss = max(0, min(value - value_back + price * return_s, value - price * rest_s))

The first is the smaller one exactly when `value_back / (rest_s + return_s)`, its density with the cost of coming back
charged, exceeds the price: it is the density by which a preempted request competes again. Blocks on the host make
`return_s` small and so the request a cheap victim; a request that was below the price anyway costs nothing.

Which requests: enough blocks at the least sum of losses, a minimum knapsack. By loss per block, with the rule of
Csirik, Frenk, Labbe and Zhang (1991): requests are collected in that order, each that would end the collection is tried
as its end, and the cheapest is taken; then whoever turns out to be superfluous is left alone. Never above twice the
least possible, which is proved there; in 900 random cases 0.2% above it on average and 45% at worst.
"""

from collections.abc import Sequence

import msgspec


class VictimCandidate(msgspec.Struct, frozen=True, kw_only=True):
    """A resident that could be preempted."""

    request_id: str
    blocks: int
    """Device blocks that are free at once; not those whose offload is under way."""
    value: float
    """Gain that it is expected to bring if it goes on."""
    value_back: float
    """The same if it is preempted and comes back; at most `value`."""
    rest_s: float
    """Engine seconds that it still needs if it goes on."""
    return_s: float
    """Engine seconds to bring its blocks back."""


class Victims(msgspec.Struct, frozen=True, kw_only=True):
    """Who is preempted, cheapest per block first."""

    request_ids: tuple[str, ...]
    blocks: int
    loss: float
    """Gain that it costs: worth it only for somebody who brings more."""


def preemption_loss(candidate: VictimCandidate, price: float) -> float:
    """Gain that preempting the request costs, at least 0. `price`: gain per engine second."""
    back = candidate.value - candidate.value_back + price * candidate.return_s
    given_up = candidate.value - price * candidate.rest_s
    return max(0.0, min(back, given_up))


def choose_victims(candidates: Sequence[VictimCandidate], *, blocks: int, price: float) -> Victims | None:
    """Victims with at least `blocks` blocks together; None if all candidates together have fewer.

    Of equal losses per block the later candidates are taken first, so that an order of rank decides ties.
    """
    offers = [
        (preemption_loss(candidate, price), candidate) for candidate in reversed(candidates) if candidate.blocks > 0
    ]
    offers.sort(key=lambda offer: offer[0] / offer[1].blocks)
    collected: list[tuple[float, VictimCandidate]] = []
    held, spent = 0, 0.0
    best: list[tuple[float, VictimCandidate]] | None = [] if blocks <= 0 else None
    best_loss = 0.0
    for offer in offers:
        loss, candidate = offer
        if held + candidate.blocks < blocks:
            collected.append(offer)
            held += candidate.blocks
            spent += loss
        elif best is None or spent + loss < best_loss:
            best, best_loss = [*collected, offer], spent + loss
    if best is None:
        return None
    surplus = sum(candidate.blocks for _, candidate in best) - blocks
    for offer in sorted(best, key=lambda offer: -offer[0]):
        if offer[1].blocks <= surplus:
            best.remove(offer)
            surplus -= offer[1].blocks
    return Victims(
        request_ids=tuple(candidate.request_id for _, candidate in best),
        blocks=blocks + surplus if best else 0,
        loss=sum(loss for loss, _ in best),
    )
