"""One engine of `proserve bench fidelity`: what was sent to it, and the same in the simulator."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from proserve_cli.fidelity_counts import KvCounts, metrics_of, simulated_counts, transfer_of
from proserve_cli.local_engines import EngineSpec
from proserve_core.batching import EngineLimits
from proserve_core.batching.registry import make_policy
from proserve_core.kv_host import KvHost
from proserve_core.latency import LatencyModel
from proserve_core.latency.step_log import LoggedStep, decode_steps
from proserve_lab.fidelity import simulated_gain, simulated_request
from proserve_lab.machine_speed import MachineSpeed, TimedReplica
from proserve_lab.replay import ReplayRecord, ReplayRequest, replay
from proserve_lab.simulation.run import simulate
from proserve_lab.simulation.workload import SimulatedRequest

NAME = "fidelity"
"""Of the model."""
IDLE_S = 1.0
"""Between replays."""
REQUEST_TIMEOUT_S = 300.0


class FidelityError(Exception):
    """The comparison can't go on; the message says why."""


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """One replay on an engine."""

    began_s: float
    """Zero of the records' clock, on the system's monotonic one."""
    records: list[ReplayRecord]
    steps: list[LoggedStep]
    metrics: str
    """Of the engine, at the end; empty if it keeps no blocks on the host."""


class FidelitySession:
    """One engine from its start on, and all that was sent to it."""

    def __init__(self, spec: EngineSpec, limits: EngineLimits, log: Path, kv_host: KvHost | None) -> None:
        self.limits = limits
        self._kv_host = kv_host
        self.replays: list[Replayed] = []
        self._spec = spec
        self._log = log
        self._read = 0

    async def replay(self, requests: Sequence[ReplayRequest]) -> None:
        began_s = time.monotonic()
        records = await replay(
            requests,
            url=self._spec.base_url,
            model=NAME,
            timeout_s=REQUEST_TIMEOUT_S,
            facts=True,
            first_seed=sum(len(each.records) for each in self.replays),
        )
        errors = {record.error for record in records if record.error is not None}
        if errors:
            raise FidelityError(f"requests failed: {'; '.join(sorted(errors))}")
        await asyncio.sleep(IDLE_S)
        metrics = "" if self._kv_host is None else await metrics_of(self._spec.capacity_url)
        self.replays.append(Replayed(began_s=began_s, records=records, steps=self._new_steps(), metrics=metrics))

    def simulate(self, number: int, latency: LatencyModel) -> tuple[dict[str, float], KvCounts | None]:
        """Gain of replay `number` in the simulator, after all replays before it, on a machine as fast as it was, and
        what was counted up to its end."""
        requests: list[SimulatedRequest] = []
        steps: list[LoggedStep] = []
        zero_s = self.replays[0].began_s
        for index, each in enumerate(self.replays[: number + 1]):
            steps += each.steps
            requests += sorted(
                (
                    simulated_request(
                        record.request, arrival_s=each.began_s - zero_s + record.sent_s, prefix=f"{index}-"
                    )
                    for record in each.records
                ),
                key=lambda request: request.arrival_s,
            )
        replica = TimedReplica(
            policy=make_policy(self._spec.policy),
            policy_name=self._spec.policy,
            limits=self.limits,
            latency=latency,
            kv_host=self._measured_host(self.replays[number].metrics),
        )
        speed = MachineSpeed(latency, steps)
        run = simulate(
            requests,
            replicas=[replica],
            noise=lambda: speed.factor(zero_s + replica.began_s),
        )
        return simulated_gain(run.outcomes[-len(self.replays[number].records) :]), simulated_counts(replica)

    def _measured_host(self, metrics: str) -> KvHost | None:
        """The host's memory with copies as fast as the engine's were."""
        host = self._kv_host
        return host and msgspec.structs.replace(host, transfer=transfer_of(metrics, host.transfer))

    def _new_steps(self) -> list[LoggedStep]:
        if not self._log.exists():
            return []
        with self._log.open("rb") as file:
            file.seek(self._read)
            lines = file.readlines()
        self._read += sum(map(len, lines))
        return decode_steps(lines)
