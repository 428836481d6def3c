"""How long the next step may be: the length that loses the least gain per second.

A step of length T pays its constant, priced at what a second of the engine is worth (`time_price`), and for each decode
- the token, if its deadline falls inside the step;
- the change of its lateness, T less its TPOT for a late one: `CATCH_UP` + 1 tokens are lost for each TPOT that it is
  late, until it has caught up;
- above one TPOT, what it loses of its lead: `T / TPOT - 1` tokens, less by a factor e for each `LEAD_TPOTS` in hand.
Divided by T this is nearly bang-bang: late decodes and cheap time call for the shortest step, a queue of dense prompts
and nobody late for 0.92 TPOT, and for more where the constant is dear and decodes are far ahead. The lead has a price
because it is what an overloaded engine lives on when the next burst comes; it can be spent once. Steps below one TPOT
earn nothing for the lead they add: paying for that costs 1.4 points at azure-conv 1.2. Where no step can keep a TPOT,
the lead that its expected tokens leave stands for the slack, the time that a token takes for the TPOT, and a token is
lost for each `lost_s` of it, but no more of them than still come in time (`fading`).

Measured: 1.4 points of gain over the best fixed length on an H100, up to 5 on an A100; the tightest deadline as length,
SlideBatching's rule, is worst, because decodes that are ahead make it long and late ones then never catch up.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from proserve_core.batching.fading import shortest_step_s
from proserve_core.latency import LatencyModel

Column = NDArray[np.float64]

_TPOT_SHARES = np.array((0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.92))
"""Candidates, in units of the tightest TPOT."""
_WITH_LONG_SHARES = np.concatenate((_TPOT_SHARES, (1.5, 2.0, 3.0, 5.0)))
"""The same while prompts wait."""
TIME_PRICE = 0.3
"""Part of the first prompt's density that engine time is worth at least."""
CATCH_UP = 3.0
"""What a chance to catch up is worth, in tokens of a request with its whole value left.

Late by L in steps of t, a decode loses L / (TPOT - t) tokens; so a step is worth t / (TPOT - t): 3 for t = 3/4 TPOT.
"""
LEAD_TPOTS = 24.0
"""Lead, in TPOTs, for each of which a decode's lead is worth less by a factor e. 12 to 48 make little difference."""
LONG_TPOTS = (1.5, 2.0, 3.0)
"""Further candidates when all deadlines can be met."""
NO_DECODES_S = 0.1


class DecodeStakes(msgspec.Struct, frozen=True, kw_only=True):
    """The decodes worth running, one entry each."""

    slack_s: Column
    lead_s: Column
    """Slack less what all expected tokens take of it (`fading`)."""
    tpot_s: Column
    """Time that a token takes, where that is longer than the TPOT."""
    lost_s: Column
    """By how much it is longer."""
    token_gain: Column
    left: Column
    """Recoverable share of the value, 0 to 1; 1 where the TPOT can't be kept."""
    most_lost: Column
    """Tokens in time that there are to lose, where the TPOT can't be kept; else infinite."""


def time_price(*, density: float, delay_loss: float) -> float:
    """Gain that a second of the engine is worth.

    A lost second delays all who wait, and who is late already loses a token's gain per TPOT by that. It can't be worth
    more than the densest work; when few are late, it is worth what is pushed out at the far end of the queue, of which
    a part of the first prompt's density is the measure.

    Args:
        density: gain per second of the first prompt in line, 0 if there is none.
        delay_loss: what late prompts lose together in a second in which none of them gets on.
    """
    return min(density, max(TIME_PRICE * density, delay_loss))


def step_length(
    *,
    stakes: DecodeStakes,
    price: float,
    decode_step_s: float,
    tpot_s: float,
    latency: LatencyModel,
    longest_s: float = np.inf,
) -> float:
    """Seconds that the next step may take.

    Args:
        price: gain that a second of the engine is worth, 0 if no prompt waits.
        decode_step_s: a step of all decodes and nothing else.
        tpot_s: tightest TPOT.
        longest_s: no longer than this (`full_house`), as far as the decodes allow.
    """
    slack_s, lead_s, own_tpot_s = stakes.slack_s, stakes.lead_s, stakes.tpot_s
    if not len(slack_s):
        return NO_DECODES_S
    shortest_s = max(1.03 * decode_step_s + 1e-3, shortest_step_s(latency))
    lengths_s = np.maximum(shortest_s, (_WITH_LONG_SHARES if price > 0 else _TPOT_SHARES) * tpot_s)
    each_s = lengths_s[:, None]
    behind_s = np.maximum(0.0, each_s - own_tpot_s - lead_s) - np.maximum(0.0, -lead_s)
    catch_up = np.full(len(slack_s), CATCH_UP)
    np.divide(own_tpot_s - stakes.lost_s, stakes.lost_s, out=catch_up, where=stakes.lost_s > 0)
    lead_worth = np.exp(-np.maximum(0.0, lead_s) / (LEAD_TPOTS * own_tpot_s))
    lost_tokens = np.minimum(
        (slack_s <= each_s)
        + (catch_up + 1) * behind_s / own_tpot_s
        + lead_worth * np.maximum(0.0, each_s / own_tpot_s - 1),
        stakes.most_lost,
    )
    lost = price * latency.constant_s + lost_tokens @ (stakes.token_gain * stakes.left)
    best_s = float(lengths_s[np.argmin(lost / lengths_s)])
    return max(shortest_s, min(best_s, longest_s))


def unhurried_length(length_s: float, *, stakes: DecodeStakes, decode_step_s: float, tpot_s: float) -> float:
    """A longer step than `length_s` that makes nobody late, when everything can be met; else `length_s`."""
    first_due_s = float(stakes.slack_s.min()) if len(stakes.slack_s) else 0.0
    if first_due_s < decode_step_s:
        return length_s
    return max([length_s, *[long * tpot_s for long in LONG_TPOTS if long * tpot_s < first_due_s]])
