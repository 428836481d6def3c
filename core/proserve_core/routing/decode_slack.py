"""What decodes lose while their engine computes a prompt, and which prompts should wait until they are further ahead.

An engine that does not rank computes a prompt as soon as it has it, and its decodes get hardly a token meanwhile. Those
that are ahead of their deadlines by as much lose nothing; the others lose tokens until they have caught up, which takes
them longer than the prompt did. So a prompt is compared with itself a little later, when the decodes have got further
ahead: it goes now only if what it loses by waiting is more than what they gain by it. Without this most of what was
lost on long prompts were tokens after a first one in time (docs/routing.md).

Decodes are taken to get no token while a prompt is computed (steps of long prompts give them one each) and to end with
any token with the same chance (`gain_left`).
"""

import numpy as np

from proserve_core.routing.gain_left import TPOT_SHARE, Column, Mask, Number, gain_left
from proserve_core.routing.outlook import Decodes, EngineOutlook
from proserve_core.routing.request_worth import WorthColumns

DELAYS = np.array([0.0, 0.25, 0.5, 1.0])
"""When a prompt might be begun instead of at once: parts of the time in which decodes get ahead by all that it takes.
With the last one alone 2.4 points less were earned on conversations with long prompts."""


def lost_at_once(engine: EngineOutlook, prefill_s: float, now_s: float) -> float:
    """Gain that decodes of an engine lose if it is sent a prompt that takes it so long."""
    if engine.decodes is None:
        return 0.0
    lost = _lost_by_decodes(engine, engine.decodes, np.array([prefill_s]), np.zeros((1, 1)), now_s)
    return float(lost[0, 0])


def worth_sending_now(engine: EngineOutlook, worth: WorthColumns, prefill_s: Column, now_s: float) -> Mask:
    """Which requests should not wait for the decodes of an engine to get further ahead.

    Args:
        worth: columns of shape (requests, 1).
        prefill_s: engine time of each prompt.
    """
    if engine.decodes is None:
        return np.ones(len(prefill_s), dtype=np.bool_)
    step_s, prompts_s = engine.decode_step_s, prefill_s[:, None]
    ahead_per_s = worth.tpot_s / np.minimum(step_s, TPOT_SHARE * worth.tpot_s) - 1
    delays_s = DELAYS * prompts_s / ahead_per_s
    lost = _lost_by_decodes(engine, engine.decodes, prefill_s, delays_s, now_s)
    value = gain_left(
        _begin_s(engine, now_s) + prompts_s + delays_s - worth.deadline_s,
        full=worth.full,
        token_gain=worth.token_gain,
        rest=worth.rest,
        tpot_s=worth.tpot_s,
        step_s=step_s,
    )
    net = value - lost
    harmless, best_now = lost[:, 0] <= 0, (net[:, 0] > 0) & (net[:, 0] >= net.max(axis=1))
    now: Mask = harmless | best_now
    return now


def _lost_by_decodes(
    engine: EngineOutlook, decodes: Decodes, prefill_s: Column, delays_s: Column, now_s: float
) -> Column:
    """Gain that decodes lose to each of several prompts, sent now or later.

    Args:
        prefill_s: engine time of each.
        delays_s: a row for each, with how long it might wait first.
    """
    step_s = engine.decode_step_s
    begin_s = _begin_s(engine, now_s)
    # Tokens that came since the snapshot's rows: in the time that prompts left.
    tokens = max(0.0, begin_s - engine.from_s - engine.prompts_s) / step_s
    late_s = begin_s - decodes.due_s - tokens * decodes.tpot_s
    if late_s.max() + prefill_s.max() < 0 and step_s <= decodes.tpot_s.min():
        return np.zeros_like(delays_s)
    at_delay_s = late_s + delays_s[..., None] * (1 - decodes.tpot_s / step_s)
    terms: dict[str, Number] = {
        "full": decodes.token_gain * decodes.rest,
        "token_gain": decodes.token_gain,
        "rest": decodes.rest,
        "tpot_s": decodes.tpot_s,
        "step_s": step_s,
    }
    without, behind = gain_left(at_delay_s, **terms), gain_left(at_delay_s + prefill_s[:, None, None], **terms)
    lost: Column = (without - behind).sum(axis=-1)
    return lost


def _begin_s(engine: EngineOutlook, now_s: float) -> float:
    """When the engine would begin a prompt sent now."""
    return max(now_s, engine.step_end_s, engine.free_at_s)
