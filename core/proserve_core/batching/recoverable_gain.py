"""Recoverable gain: whoever brings most gain per engine second from here on, with output lengths learned online.

Source: our own; the rules and constants were found by simulation over six production traces, loads from 0.5 to 2 times
saturation, two GPUs and three sets of objectives (docs/batching.md has figures). Nothing in it is tuned to a trace.

- Every request has a recoverable gain and a cost (`gain_density`), from expected output lengths (`lengths`).
- Decodes that are ahead by less than `URGENT_TPOTS` come first, by density. Decodes that are further ahead compete with
  the prompts by density; a prompt's density counts less while it can still wait (urgency), measured by how long the
  whole queue takes to drain: deadline order in a short queue, density order in a long one.
- Who cannot earn anything any more comes last, but is never dropped.
- The step is as long as loses the least gain per second (`step_length`), but no longer than helps when slots or blocks
  are short (`full_house`).
- Who asks for tokens faster than any step brings them sets no pace and is worth what comes before its slack is used up
  (`fading`).
- Crowd: when one step of all decodes takes longer than the tightest TPOT allows, holding all of them makes all of them
  late. Then the step ends before, and decodes that would be late without it come first: others, such as those with a
  longer TPOT, can pause.
- Saturation: when a token per TPOT for each decode is more than the engine can do, the densest run, the others pause;
  prompts may displace clearly less dense decodes, in a small part of the step. Without it long outputs on a slow GPU
  lose up to 47 points.
- Plenty: when all deadlines can be met, and that has been so for a while (`load_gate`), prompts go by deadline and
  steps may be long.

Blocks and slots: a waiting request takes them only from residents that cannot earn any more, a resident from anyone
behind it. When all sequence slots are taken, a waiting request may also take that of a less dense decode that is so far
ahead that it can be computed again in time: residents count against the limit, as in vLLM, and a decode that runs
faster than its TPOT needs its slot only part of the time (1-2 points of gain at twice the saturation).
"""

import numpy as np

from proserve_core.batching.fading import KeptTpots, kept_tpots, shortest_step_s
from proserve_core.batching.fill import FillOptions, fill_ranked
from proserve_core.batching.full_house import OutputFlow, full_house_s, room_for
from proserve_core.batching.gain_density import Pace, Prospects, decode_share, prefill_share, prospects
from proserve_core.batching.length_counts import LengthCounts
from proserve_core.batching.length_observer import LengthObserver
from proserve_core.batching.load_gate import LoadGate, prompts_feasible
from proserve_core.batching.ranking import Ranking
from proserve_core.batching.request_columns import Index, Mask, RequestColumns
from proserve_core.batching.standing import RankedStep
from proserve_core.batching.state import BatchPlan, EngineState, RequestState
from proserve_core.batching.step_length import DecodeStakes, step_length, time_price, unhurried_length
from proserve_core.batching.victim_choice import VictimChoice

URGENT_TPOTS = 5.0
URGENCY = 0.3
"""Part of the queue's drain time in which waiting makes a prompt urgent by a factor e."""
SATURATED_SHARE = 0.9
"""Part of a TPOT that a step of all decodes may take, and of the time that they may take altogether."""
HOLD = 1.5
"""In saturation a running decode gives way only to a prompt that is denser by this factor: between equal (swapping like
for like on the noise of estimates) and 2, a common ratio of class weights."""
DISPLACEMENT_SHARE = 0.1
"""Part of a saturated step for prompts."""
LEND_TPOTS = 20.0
"""A decode lends its slot when it is ahead by so much, and by the time it takes to compute it again."""
CROWD = 8
"""Free slots below which not everything can be met."""
STEP_MEMORY = 0.05

_FILL = FillOptions(skip=True, min_chunk=32, waiting_takes_slots=True)


class RecoverableGain:
    """Policy `recoverable-gain`."""

    def __init__(self) -> None:
        self._lengths = LengthObserver()
        self.ranked: RankedStep | None = None
        """The last plan's order."""
        self._gate = LoadGate()
        self._step_s = 0.0
        self._flow = OutputFlow()
        self._planned_at_s: float | None = None

    def ended(self, request: RequestState, *, finished: bool) -> None:
        """Learn how long the output was."""
        self._lengths.ended(request, finished=finished)

    def learned(self) -> LengthCounts:
        """All that is known of output lengths."""
        return self._lengths.table.counts()

    def recall(self, counts: LengthCounts) -> None:
        """Begin with output lengths that were learned earlier."""
        self._lengths = LengthObserver(counts)

    def plan(self, state: EngineState) -> BatchPlan:
        latency = state.latency
        elapsed_s = self._elapsed(state.now_s, stepped=bool(state.requests.residents))
        if not state.requests:
            return BatchPlan()
        columns = RequestColumns(state)
        profiles = self._lengths.profiles(columns)
        self._lengths.observe(state.requests.residents, state.now_s)

        tpots, residents = kept_tpots(columns, latency), columns.residents
        tpot_s = tpots.least_s
        decode = columns.decode[:residents] & ~tpots.spent[:residents]
        decoding = decode.nonzero()[0]
        decodes = len(decoding)
        computed = float(np.add.reduce(columns.context[decoding])) - decodes
        decode_step_s = latency.sums_s(decodes, 0, computed, decodes)
        crowded = decodes > 0 and decode_step_s > SATURATED_SHARE * tpot_s
        saturated = crowded and decode_share(columns, tpots, latency, decoding) > SATURATED_SHARE
        if crowded:
            decode_step_s = max(SATURATED_SHARE * tpot_s, shortest_step_s(latency))
        elif not decodes:
            decode_step_s = 0.0
        pace = Pace(
            decode_step_s=decode_step_s,
            step_s=self._step_s,
            decodes=decodes,
            prefill_share=prefill_share(columns, tpots, latency, decoding),
        )
        worth = prospects(columns, tpots, pace, self._lengths.table, profiles, latency)
        arrived = self._lengths.arrived
        self._flow.note(float(worth.rest[arrived].sum()) if len(arrived) else 0.0, now_s=state.now_s)
        valuable = worth.value > 0
        running = (valuable[:residents] & decode).nonzero()[0]
        prompts = (valuable & ~columns.decode).nonzero()[0]
        unhurried = self._unhurried(state, columns, tpots, worth, pace, running, prompts, saturated, elapsed_s)

        ranking, first_prompt_density = _rank(
            columns, worth, pace, valuable, running, prompts,
            due_s=2 * decode_step_s if crowded else None, saturated=saturated, unhurried=unhurried,
        )  # fmt: skip
        self.ranked = RankedStep(
            columns=columns,
            ranking=ranking,
            figures={"recoverable_gain": worth.value, "gain_per_s": worth.density, "prompt_s": columns.prefill_s},
        )
        if saturated:
            budget_s, prefill_budget_s = decode_step_s, DISPLACEMENT_SHARE * decode_step_s
        else:
            prefill_budget_s = np.inf
            stakes = _stakes(columns, worth, running)
            budget_s = step_length(
                stakes=stakes,
                price=time_price(
                    density=first_prompt_density, delay_loss=_delay_loss(columns, prompts, pace.prefill_share)
                ),
                decode_step_s=decode_step_s,
                tpot_s=tpot_s,
                latency=latency,
                longest_s=self._longest_step_s(state, columns, worth, prompts),
            )
            if unhurried:
                budget_s = unhurried_length(budget_s, stakes=stakes, decode_step_s=decode_step_s, tpot_s=tpot_s)
        kept_for_itself = valuable[:residents]
        if residents >= state.limits.max_sequences:
            context = columns.context[:residents]
            again_s = (latency.linear_token_s + latency.attention_s * context) * context
            if state.resume is not None:
                again_s = columns.return_s
            ahead_s = LEND_TPOTS * columns.tpot_s[:residents] + again_s / pace.prefill_share
            kept_for_itself = kept_for_itself & ~(decode & (worth.lead_s[:residents] > ahead_s))
        return fill_ranked(
            state,
            columns,
            ranking,
            options=_FILL,
            budget_s=budget_s,
            prefill_budget_s=prefill_budget_s,
            kept=kept_for_itself,
            choice=None
            if state.resume is None
            else VictimChoice(
                columns, worth, pace, self._lengths.table, profiles, price=first_prompt_density, kept=kept_for_itself
            ),
        )

    def _elapsed(self, now_s: float, *, stepped: bool) -> float:
        """Time since the plan before; takes it for the last step's duration unless the engine may have been idle."""
        elapsed_s = 0.0 if self._planned_at_s is None else max(0.0, now_s - self._planned_at_s)
        self._planned_at_s = now_s
        if stepped and elapsed_s > 0:
            self._step_s += STEP_MEMORY * (elapsed_s - self._step_s)
        return elapsed_s

    def _longest_step_s(self, state: EngineState, columns: RequestColumns, worth: Prospects, prompts: Index) -> float:
        """The longest step that is of use when slots or blocks are short."""
        residents, limits = columns.residents, state.limits
        if not residents:
            return np.inf
        room = room_for(residents, limits=limits, free_blocks=state.free_blocks)
        longest_s = full_house_s(
            prompt=columns.prompt[:residents],
            output=columns.emitted[:residents] + worth.rest[:residents],
            context=columns.context[:residents],
            room=room,
            latency=state.latency,
        )
        waiting = prompts[prompts.searchsorted(residents) :]
        if len(waiting) + residents > limits.max_sequences:
            return longest_s
        if columns.pending[waiting].sum() > state.free_blocks * limits.block_size:
            return longest_s
        return max(longest_s, self._flow.filling_s(room * residents))

    def _unhurried(
        self,
        state: EngineState,
        columns: RequestColumns,
        tpots: KeptTpots,
        worth: Prospects,
        pace: Pace,
        running: Index,
        prompts: Index,
        saturated: bool,
        elapsed_s: float,
    ) -> bool:
        """Whether all deadlines can be met, and have been for a while."""
        running_slack_s = worth.lead_s[running]
        feasible = not saturated and not (len(running) and running_slack_s.min() < pace.decode_step_s)
        slack_s, prefill_s = worth.lead_s[prompts], columns.prefill_s[prompts]
        # Under overload some prompt will be late whatever share of the time prompts get.
        feasible = feasible and not np.count_nonzero(prefill_s > slack_s)
        if feasible and len(prompts):
            horizon_s = max(0.1, float(slack_s.max()))
            # A decode that is ahead needs no time until its lead is used up.
            lead_s = running_slack_s - URGENT_TPOTS * columns.tpot_s[running]
            wanted = np.minimum(1.0, np.maximum(0.0, 1 - lead_s / horizon_s))
            share = prefill_share(columns, tpots, state.latency, running, wanted)
            feasible = prompts_feasible(slack_s, prefill_s, share)
        safe = self._gate.note(feasible, elapsed_s)
        return safe and len(prompts) >= 2 and len(running) + len(prompts) <= state.limits.max_sequences - CROWD


def _stakes(columns: RequestColumns, worth: Prospects, running: Index) -> DecodeStakes:
    value, token_gain, lost_s = worth.value[running], columns.token_gain[running], worth.lost_s[running]
    left = np.minimum(1.0, value / np.maximum(worth.full_value[running], 1e-300))
    most_lost = np.full(len(running), np.inf)
    fading = lost_s.nonzero()[0]
    if len(fading):
        left[fading] = 1.0
        most_lost[fading] = value[fading] / np.maximum(token_gain[fading], 1e-300)
    return DecodeStakes(
        slack_s=columns.slack_s[running],
        lead_s=worth.lead_s[running],
        tpot_s=columns.tpot_s[running] + lost_s,
        lost_s=lost_s,
        token_gain=token_gain,
        left=left,
        most_lost=most_lost,
    )


def _delay_loss(columns: RequestColumns, prompts: Index, share: float) -> float:
    """What late prompts lose together in a second without prompts; they wait for `1 / share` seconds to make it up."""
    late = prompts[columns.slack_s[prompts] < columns.prefill_s[prompts] / share]
    return float((columns.token_gain[late] / columns.tpot_s[late]).sum()) / share


def _rank(
    columns: RequestColumns,
    worth: Prospects,
    pace: Pace,
    valuable: Mask,
    running: Index,
    prompts: Index,
    *,
    due_s: float | None,
    saturated: bool,
    unhurried: bool,
) -> tuple[Ranking, float]:
    """The order of all requests, and the density of the first prompt worth running.

    `due_s`: decodes with less slack would be late if they did not run now; None when all run anyway.
    """
    density, slack_s = worth.density, columns.slack_s
    queue_s = columns.prefill_s[prompts] / pace.prefill_share
    drain_s = float(queue_s.sum())
    index = density.copy()
    if drain_s > 0:
        spare_s = slack_s[prompts] - queue_s
        can_wait = (spare_s > 0).nonzero()[0]
        index[prompts[can_wait]] *= np.exp(-spare_s[can_wait] / (URGENCY * drain_s))
    near = worth.lead_s[running] <= URGENT_TPOTS * columns.tpot_s[running]
    front, others = running[near], running[~near]
    if saturated:
        index[front] *= HOLD
        front, others = front[:0], running
    first_density = 0.0
    if len(prompts):
        first_density = float(density[prompts].max() if unhurried else density[prompts[index[prompts].argmax()]])
    ranking = Ranking()
    if due_s is not None:
        due = slack_s[front] < due_s
        ranking.add_places(front[due], density, "urgent")
        front = front[~due]
    ranking.add_places(front, density, "urgent")
    if unhurried:
        ranking.add_places(prompts, -slack_s, "prompt")
        ranking.add_places(others, index, "ahead")
    else:
        ranking.add_places(np.concatenate((others, prompts)), index, "ahead", "prompt")
    if len(running) + len(prompts) < len(columns):
        hopeless = ~valuable
        ranking.add(hopeless & columns.decode, columns.token_gain, "hopeless")
        ranking.add(hopeless & ~columns.decode, columns.token_gain, "hopeless")
    return ranking, first_density
