"""The books as Prometheus series, made when they are scraped."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from proserve_core.gain import GainTotals, LossCause
from proserve_gateway.metrics import OTHER, PREFIX, GatewayMetrics, MetricInfo
from proserve_gateway.seeing.accounting import Accounting

_BY_TENANT = ("class", "tenant")
_BY_MODEL = ("class", "tenant", "model")


def _info(kind: str, name: str, labels: tuple[str, ...], text: str) -> MetricInfo:
    return MetricInfo(name=PREFIX + name, kind=kind, labels=labels, help=text)


_REQUESTS = _info(
    "counter",
    "requests_total",
    (*_BY_MODEL, "code"),
    "Requests that ended, by HTTP status; 499: the client left, or its deadline passed.",
)
_IN_FLIGHT = _info("gauge", "requests_in_flight", _BY_MODEL, "Requests that have not ended.")
_ATTAINED = _info(
    "counter",
    "requests_slo_attained_total",
    _BY_TENANT,
    "Finished requests whose time to first token and mean time per output token both met their targets.",
)
_JUDGED = _info(
    "counter",
    "requests_judged_total",
    _BY_TENANT,
    "Finished requests that could have met their targets: they bring tokens, and no engine refused them as wrong.",
)
_EARNED = _info("counter", "gain_earned_total", _BY_TENANT, "Service gain of tokens that passed before their deadline.")
_LOST = _info("counter", "gain_lost_total", (*_BY_TENANT, "cause"), "Service gain that was not earned, by cause.")
_OUTPUT = _info("counter", "output_tokens_total", _BY_MODEL, "Tokens sent to clients.")
_PROMPT = _info("counter", "prompt_tokens_total", _BY_MODEL, "Prompt tokens, as the engines reported them.")


class AccountingCollector(Collector):
    """Reads the books at scrape time."""

    def __init__(self, accounting: Accounting, metrics: GatewayMetrics) -> None:
        self._accounting = accounting
        for info in (_REQUESTS, _IN_FLIGHT, _ATTAINED, _JUDGED, _EARNED, _LOST, _OUTPUT, _PROMPT):
            metrics.declare(info)
        metrics.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        yield from self._by_model()
        yield from self._gain()

    def _by_model(self) -> Iterator[Metric]:
        requests, output, prompt = _counter(_REQUESTS), _counter(_OUTPUT), _counter(_PROMPT)
        in_flight = GaugeMetricFamily(_IN_FLIGHT.name, _IN_FLIGHT.help, labels=_IN_FLIGHT.labels)
        for key, series in self._accounting.series.items():
            in_flight.add_metric(key, series.in_flight)
            output.add_metric(key, series.output_tokens)
            prompt.add_metric(key, series.prompt_tokens)
            for code, count in series.by_code.items():
                requests.add_metric((*key, str(code)), count)
        for (priority_class, tenant, code), count in self._accounting.refusals.items():
            requests.add_metric((priority_class, tenant, OTHER, str(code)), count)
        yield from (requests, in_flight, output, prompt)

    def _gain(self) -> Iterator[Metric]:
        attained, judged, earned, lost = (_counter(info) for info in (_ATTAINED, _JUDGED, _EARNED, _LOST))
        # From zero on, before the first request of a class ends: a series that starts at its first value hides it
        # from rate().
        opened = {(priority_class, tenant): GainTotals() for priority_class, tenant, _ in self._accounting.series}
        for key, totals in (opened | dict(self._accounting.ledger.by_class_and_tenant)).items():
            attained.add_metric(key, totals.slo_attained)
            judged.add_metric(key, totals.requests)
            earned.add_metric(key, totals.earned)
            for cause in LossCause:
                lost.add_metric((*key, cause), totals.lost.get(cause, 0.0))
        yield from (attained, judged, earned, lost)


def _counter(info: MetricInfo) -> CounterMetricFamily:
    return CounterMetricFamily(info.name, info.help, labels=info.labels)
