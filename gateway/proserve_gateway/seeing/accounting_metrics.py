"""The books as Prometheus series, made when they are scraped."""

from collections.abc import Iterator

from proserve_core.gain import GainTotals, LossCause
from proserve_gateway.exposition import MetricInfo, Row, Table
from proserve_gateway.metrics import OTHER, PREFIX, GatewayMetrics
from proserve_gateway.seeing.accounting import Accounting, Series

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


_NOTHING = GainTotals()


class AccountingCollector:
    """Reads the books at scrape time."""

    def __init__(self, accounting: Accounting, metrics: GatewayMetrics) -> None:
        self._accounting = accounting
        metrics.read((_REQUESTS, _IN_FLIGHT, _OUTPUT, _PROMPT, _ATTAINED, _JUDGED, _EARNED, _LOST), self._tables)

    def _tables(self) -> Iterator[Table]:
        series = list(self._accounting.series.items())
        yield Table(_REQUESTS, self._requests(series))
        yield Table(_IN_FLIGHT, ((key, each.in_flight) for key, each in series))
        yield Table(_OUTPUT, ((key, each.output_tokens) for key, each in series))
        yield Table(_PROMPT, ((key, each.prompt_tokens) for key, each in series))
        # From zero on, before the first request of a class ends: a series that starts at its first value hides it
        # from rate().
        opened = dict.fromkeys([(priority_class, tenant) for (priority_class, tenant, _), _ in series], _NOTHING)
        gains = list((opened | dict(self._accounting.ledger.by_class_and_tenant)).items())
        yield Table(_ATTAINED, ((key, totals.slo_attained) for key, totals in gains))
        yield Table(_JUDGED, ((key, totals.requests) for key, totals in gains))
        yield Table(_EARNED, ((key, totals.earned) for key, totals in gains))
        yield Table(
            _LOST, (((*key, cause), totals.lost.get(cause, 0.0)) for key, totals in gains for cause in LossCause)
        )

    def _requests(self, series: list[tuple[tuple[str, str, str], Series]]) -> Iterator[Row]:
        for key, each in series:
            for code, count in list(each.by_code.items()):
                yield (*key, str(code)), count
        for (priority_class, tenant, code), count in list(self._accounting.refusals.items()):
            yield (priority_class, tenant, OTHER, str(code)), count
