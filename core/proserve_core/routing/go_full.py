"""`go-full`: GoRouting with the gain of all tokens; where it adds about as much, the engine that is done first.

Source: the repair of `go-routing` found in the study behind `late-gain` (docs/routing.md). EstimateGain counts first
tokens only, one of two hundred, and dead work as load; `displaced_gain` counts all tokens, and only what would run
before the request delays it. Candidates are engines within `beta` of the best gain, as published. Packing between two
load thresholds is left out: it pays only where one prompt takes a third of the TTFT objective or more. Only the
`FINALISTS` engines with the earliest first token are asked for the gain that others would lose there.
"""

from proserve_core.routing.displaced_gain import displaced_gain
from proserve_core.routing.fleet_outlook import LOAD, FleetOutlook, meet_one
from proserve_core.routing.gain_left import gain_left
from proserve_core.routing.min_ahead import LOAD_S, NO_ROOM_S
from proserve_core.routing.request_worth import STEP, worth_of
from proserve_core.routing.state import FleetView, RouteDecision, RoutingRequest

FINALISTS = 8


class GoFull:
    """Most gain over all tokens, then the earliest first token."""

    def __init__(self, *, beta: float = 0.95) -> None:
        """Args:
        beta: a candidate adds at least this share of the best gain difference, in (0, 1].

        Raises:
            ValueError: beta is out of range.
        """
        if not 0 < beta <= 1:
            raise ValueError(f"go-full beta {beta} is out of range: use a share above 0 and up to 1")
        self.beta = beta
        self._outlook = FleetOutlook()

    def choose(self, request: RoutingRequest, fleet: FleetView) -> RouteDecision:
        outlook, now_s = self._outlook, fleet.now_s
        outlook.refresh(fleet)
        engines = outlook.engines
        worth = worth_of(request)
        meeting = meet_one(outlook, request, worth, now_s)
        needs, finish_s = meeting.needs, now_s + meeting.ahead_s + meeting.needs.ready_s
        full = outlook.without_room(request.prompt_tokens)
        cost_s = finish_s + LOAD_S * outlook.table[LOAD] + NO_ROOM_S * full
        finalists = outlook.least(cost_s, FINALISTS)
        values = gain_left(
            finish_s - worth.deadline_s,
            full=worth.full,
            token_gain=worth.token_gain,
            rest=worth.rest,
            tpot_s=worth.tpot_s,
            step_s=outlook.table[STEP],
        )
        most = values[finalists].tolist()
        gains: list[float] = []
        best = 0
        for number, place in enumerate(finalists):
            gains.append(most[number] - displaced_gain(worth, engines[place], needs, place, request.prompt_tokens))
            # In order of cost, so the first that is good enough wins. Those not asked add no more than if nobody lost.
            least = self._least(max(gains))
            best = next(at for at, gain in enumerate(gains) if gain >= least)
            if gains[best] >= self._least(max([*gains, *most[number + 1 :]])):
                break
        least = self._least(max(gains))
        good = [number for number, gain in enumerate(gains) if gain >= least]
        return RouteDecision(
            engine=outlook.names[finalists[best]],
            reason="earliest first token among the best gains",
            expected_ttft_s=float(finish_s[finalists[best]]) - request.arrival_s,
            expected_gain=gains[best],
            candidates=tuple([outlook.names[finalists[number]] for number in good]),
            candidate_ttft_s=tuple((finish_s[[finalists[number] for number in good]] - request.arrival_s).tolist()),
            candidate_gain=tuple([gains[number] for number in good]),
        )

    def _least(self, best: float) -> float:
        """Least gain of a candidate if the best engine adds this much; nowhere positive, all are candidates."""
        return self.beta * best if best > 0 else float("-inf")
