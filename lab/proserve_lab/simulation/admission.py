"""Which requests an engine takes, asked before a simulation or a bound that may take minutes."""

from collections.abc import Sequence

from proserve_core.batching.fcfs import Fcfs
from proserve_core.batching.state import EngineLimits
from proserve_core.latency import LatencyModel
from proserve_core.replica import Replica, SubmitError
from proserve_lab.simulation.workload import SimulatedRequest


def refuse_unservable(requests: Sequence[SimulatedRequest], *, limits: EngineLimits, latency: LatencyModel) -> None:
    """Submit all requests to an engine that never runs: the rule is the engine's own.

    Raises:
        SubmitError: an engine of this size could not hold a request; the message names its row of the trace.
    """
    engine = Replica(policy=Fcfs(), policy_name="fcfs", limits=limits, latency=latency)
    for row, request in enumerate(requests, start=1):
        try:
            engine.submit(
                request_id=request.id,
                terms=request.terms,
                arrival_s=request.arrival_s,
                prompt_tokens=request.prompt_tokens,
                output_tokens=request.output_tokens,
            )
        except SubmitError as error:
            raise SubmitError(f"row {row}: {error}") from error
