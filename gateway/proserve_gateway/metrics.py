"""The gateway's Prometheus registry and the table of all its metrics, from which docs/metrics.md is generated.

Events are counted here as they fall; sums and states that are kept anyway are read at scrape time, as the tables in
`seeing.accounting_metrics`, `fleet.metrics` and others say. Label values come from the configuration (class, tenant,
model, pool, engine) or from closed lists, never from clients; `Bounded` caps what is left.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from proserve_gateway.exposition import MetricInfo, Table, family_lines

PREFIX = "proserve_gateway_"

TTFT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 60.0)
WAIT_BUCKETS_S = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
TPOT_BUCKETS_S = (0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)

SLICE_S = 0.001
"""Of the event loop for a scrape: a third of what chunks may be delayed."""
OTHER = "other"
"""Label value of what does not come from the configuration, such as a model that nobody serves."""


class Bounded:
    """Lets the first `limit` values of a label through and turns the rest into `other`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: set[str] = set()

    def __call__(self, value: str) -> str:
        if value not in self._seen:
            if len(self._seen) >= self._limit:
                return OTHER
            self._seen.add(value)
        return value


class _Tables(Collector):
    """For a registry."""

    def __init__(self, tables: Callable[[], Iterator[Table]]) -> None:
        self.tables = tables

    def collect(self) -> Iterator[Metric]:
        return (table.family() for table in self.tables())


class GatewayMetrics:
    """All series of one gateway, in a registry of its own."""

    def __init__(self) -> None:
        # The `_created` series double the output and nothing of ours reads them.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._counted = CollectorRegistry()
        """What is counted as it falls, and so a part of `registry`."""
        self.registry.register(self._counted)
        self._tables: list[Callable[[], Iterator[Table]]] = []
        self.table: list[MetricInfo] = []
        self.ttft = self._histogram(
            "time_to_first_token_seconds", ("class", "model"), "From arrival to the first token.", TTFT_BUCKETS_S
        )
        self.tpot = self._histogram(
            "time_per_output_token_seconds",
            ("class", "model"),
            "Mean time between the tokens of an answer, without the first; of each choice that came in several pieces.",
            TPOT_BUCKETS_S,
        )
        self.decisions = self._counter("route_decisions", ("pool", "reason"), "Choices of an engine, by reason.")
        self.engine_failures = self._counter(
            "engine_failures",
            ("pool", "reason"),
            "Requests that an engine failed, by reason; each is tried or continued on another engine where possible.",
        )
        self.broken_streams = self._counter(
            "broken_streams",
            ("pool", "result"),
            "Streams whose engine failed after they had begun: continued on another engine, or why they were not.",
        )
        self.deadlines_passed = self._counter(
            "deadlines_passed",
            ("pool",),
            "Calls that ended because their own deadline passed: 499 in `requests_total`, and what was not late by "
            "then is lost to `client_cancel`.",
        )
        self.wait = self._histogram(
            "wait_seconds",
            ("pool", "class"),
            "From a request's entry into a pool's waiting room until it got an engine.",
            WAIT_BUCKETS_S,
        )
        self.wait_refusals = self._counter(
            "wait_refusals",
            ("pool", "class", "cause"),
            "Waiting requests that their class or the gateway's memory did not let wait any longer, by cause.",
        )
        self.degraded = self._counter(
            "degraded_requests", ("pool", "class", "to"), "Waiting requests that went on in another class."
        )
        self.polls = self._counter(
            "engine_polls",
            ("engine", "result"),
            "Polls of engines: changed, unchanged (the long poll's wait ended), measured (no capacity there, but "
            "Prometheus metrics), probed (neither), missed.",
        )
        self.records_dropped = self._counter(
            "records_dropped", (), "Requests that the file of `--record` lacks: its disk was full or too slow."
        )

        self.background_failures = self._counter(
            "background_failures",
            ("task",),
            "Faults of the gateway beside the data path, by the task, which begins again, or other; its log has each.",
        )
        self.renewals = self._counter(
            "renewals",
            ("part", "result"),
            "Changes of certificate and key files (data_tls, engine_tls, admin_keys, engine_keys): applied or refused.",
        )
        self.configurations = self._counter(
            "configurations",
            ("result",),
            "Configurations after the first one: applied, or refused as a whole so that the last good one stays.",
        )
        self.configuration_good = self._gauge(
            "configuration_last_load_successful",
            "0 while the newest configuration is refused and an older one is in force, else 1.",
        )
        self.configuration_unlisted = self._gauge(
            "configuration_unlisted",
            "Lists of resources, Secrets and engines (each of a kind, in a namespace or in the cluster) that this "
            "gateway has no right to read.",
        )
        self.configuration_loaded_s = self._gauge(
            "configuration_last_success_timestamp_seconds", "When the configuration in force was taken over."
        )

    def read(self, infos: Iterable[MetricInfo], tables: Callable[[], Iterator[Table]]) -> None:
        """Add metrics whose series are made by `tables` when they are scraped."""
        self.table.extend(infos)
        self._tables.append(tables)
        self.registry.register(_Tables(tables))

    def _counter(self, name: str, labels: Sequence[str], text: str) -> Counter:
        self.table.append(MetricInfo(name=f"{PREFIX}{name}_total", kind="counter", labels=tuple(labels), help=text))
        return Counter(PREFIX + name, text, labels, registry=self._counted)

    def _gauge(self, name: str, text: str) -> Gauge:
        self.table.append(MetricInfo(name=PREFIX + name, kind="gauge", labels=(), help=text))
        return Gauge(PREFIX + name, text, registry=self._counted)

    def _histogram(self, name: str, labels: Sequence[str], text: str, buckets: Sequence[float]) -> Histogram:
        self.table.append(
            MetricInfo(name=PREFIX + name, kind="histogram", labels=tuple(labels), help=text, buckets=tuple(buckets))
        )
        return Histogram(PREFIX + name, text, labels, buckets=buckets, registry=self._counted)

    async def render(self) -> bytes:
        """Text exposition of all series. Streams go on meanwhile: they have their turn after every `SLICE_S`."""
        clock = time.perf_counter  # the loop's has whole milliseconds
        slices: list[bytes] = []
        lines: list[str] = []
        until_s = clock() + SLICE_S
        for line in self._lines():
            lines.append(line)
            if clock() > until_s:
                slices.append("".join(lines).encode())
                lines.clear()
                await asyncio.sleep(0)
                until_s = clock() + SLICE_S
        slices.append("".join(lines).encode())
        return b"".join(slices)

    def _lines(self) -> Iterator[str]:
        for family in self._counted.collect():
            yield from family_lines(family)
        for tables in self._tables:
            for table in tables():
                yield from table.lines()


def table_markdown(rows: Iterable[MetricInfo]) -> str:
    """The metrics as a Markdown table."""
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for row in rows:
        labels = ", ".join(f"`{label}`" for label in row.labels)
        buckets = f" Buckets: {', '.join(f'{bound:g}' for bound in row.buckets)}." if row.buckets else ""
        lines.append(f"| `{row.name}` | {row.kind} | {labels} | {row.help}{buckets} |")
    return "\n".join(lines) + "\n"
