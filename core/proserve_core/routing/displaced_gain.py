"""What a request would bring on an engine, less what it takes from the requests there: EstimateGain over all tokens.

Source: the delta of `late-gain` and `go-full` (docs/routing.md), which repairs the published EstimateGain of GoRouting
(`gain_estimate`): gain of all tokens and not of first ones only, and dead work is no load. Prefills that the engine
would serve after the request finish later by its prefill. Where its decode does not fit in any more, decodes worth as
much per second as the request itself are taken to be displaced, in part (`SHARE_DISPLACED`): an engine with all decodes
late still serves some of them in time.
"""

from proserve_core.routing.gain_left import gain_left
from proserve_core.routing.outlook import STEP_SHARE, EngineOutlook
from proserve_core.routing.request_worth import Demand, Worth

FULL_LOAD = 0.95
"""Share of an engine's time beyond which decodes displace each other."""
SHARE_DISPLACED = 0.7


def displaced_gain(worth: Worth, engine: EngineOutlook, needs: Demand, place: int, prompt_tokens: int) -> float:
    """Gain that others lose if the request is served by `engine`, whose place in `needs` is `place`."""
    lost = 0.0
    density, load = float(needs.value[place] / needs.cost_s[place]), float(needs.load[place])
    ahead = engine.place(density)
    if ahead < len(engine.queue):
        ready_s = float(needs.ready_s[place])
        finish_s, deadline_s, full, token_gain, rest, tpot_s = engine.behind(ahead)
        late_s = finish_s - deadline_s
        if late_s.max() + ready_s >= 0:
            terms = {"full": full, "token_gain": token_gain, "rest": rest, "tpot_s": tpot_s, "step_s": engine.step_s}
            lost = float((gain_left(late_s, **terms) - gain_left(late_s + ready_s, **terms)).sum())
    latency = engine.profile.latency
    total = engine.load + engine.queued_load + load + latency.constant_s / (STEP_SHARE * worth.tpot_s)
    if total > FULL_LOAD:
        share = min(1.0, (total - FULL_LOAD) / load) if load > 0 else 0.0
        decode_s = worth.rest * latency.decode_s(prompt_tokens + worth.rest / 2)
        lost += SHARE_DISPLACED * share * decode_s * density
    return lost
