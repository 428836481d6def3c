"""What the report simulates: rows of the shipped traces, some with longer outputs."""

from functools import cache

import msgspec

from proserve_lab.shipped_traces import shipped_trace
from proserve_lab.trace import TraceRow, read_trace


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """The first `rows` rows of a trace."""

    trace: str
    rows: int
    output_factor: int = 1
    """Outputs are this many times as long as recorded, up to `LONGEST_OUTPUT`."""
    all_work: bool = False
    """Load counts all work, not only what falls due while requests arrive."""


LONGEST_OUTPUT = 16_384
"""Tokens that lengthened outputs end at."""

BOUND_BUCKETS_S = {
    "azure-conv": 2.0,
    "azure-code": 0.5,
    "mooncake-conversation": 2.0,
    "mooncake-synthetic": 1.0,
    "m-large": 0.5,
    "r1": 4.0,
}
"""Time buckets that bounds are computed with: within 0.4 points of finer ones, in less than a minute."""

WORKLOADS: dict[str, Workload] = {
    "azure-conv": Workload(trace="azure-conv-2023", rows=1500),
    "azure-code": Workload(trace="azure-code-2023", rows=1500),
    "mooncake-conversation": Workload(trace="mooncake-conversation", rows=1000),
    "mooncake-synthetic": Workload(trace="mooncake-synthetic", rows=1000),
    "m-large": Workload(trace="servegen-m-large", rows=2000),
    "r1": Workload(trace="servegen-deepseek-r1", rows=1200),
    "m-small": Workload(trace="servegen-m-small", rows=4000),
    "r1 x10": Workload(trace="servegen-deepseek-r1", rows=150, output_factor=10, all_work=True),
    "azure-conv x8": Workload(trace="azure-conv-2023", rows=900, output_factor=8),
}
REACHABLE = {
    "mooncake-conversation": 2.0,
    "mooncake-synthetic": 2.0,
    "r1": 2.0,
    "azure-conv": 1.2,
    "m-large": 1.0,
}
"""Highest load at which prompt lengths tell enough about output lengths to come near the clairvoyant bound."""
TRACES = ("azure-conv", "azure-code", "mooncake-conversation", "mooncake-synthetic", "m-large", "r1")
"""Those of the grid."""


def lengths_tell(workload: str, load: float) -> bool:
    """Whether most of the clairvoyant bound is within reach of policies that do not know output lengths."""
    return load <= REACHABLE.get(workload, 0.0)


@cache
def workload_rows(name: str) -> tuple[TraceRow, ...]:
    """Rows of a workload, arrivals as recorded."""
    workload = WORKLOADS[name]
    rows = tuple(read_trace(shipped_trace(workload.trace), limit=workload.rows))
    if workload.output_factor == 1:
        return rows
    return tuple(
        msgspec.structs.replace(row, output_tokens=min(row.output_tokens * workload.output_factor, LONGEST_OUTPUT))
        for row in rows
    )
