"""Accounts for every request: gain by class, tenant and cause, latencies, tokens and outcomes.

Gain itself is computed by `proserve_core.gain`; this module opens one account per request, feeds it as tokens pass
and books the result into the ledger and the metrics when the request ends. Metric children are resolved once per
class, tenant and model, because resolving labels costs more than the rest of a chunk.
"""

from proserve_core.gain import GainLedger, LossCause, RequestAccount
from proserve_core.objectives import ServiceTerms
from proserve_gateway.accounting_lengths import OutputLengths
from proserve_gateway.metrics import OTHER, Bounded, GatewayMetrics

CLIENT_CLOSED = 499
"""Status of a request whose client left; never sent, only counted."""


class _Series:
    """Metric children of one class, tenant and model."""

    __slots__ = (
        "attained",
        "by_cause",
        "by_code",
        "earned",
        "in_flight",
        "labels",
        "metrics",
        "output_tokens",
        "prompt_tokens",
        "tpot",
        "ttft",
    )  # fmt: skip

    def __init__(self, metrics: GatewayMetrics, priority_class: str, tenant: str, model: str) -> None:
        self.metrics = metrics
        self.labels = (priority_class, tenant, model)
        self.ttft = metrics.ttft.labels(priority_class, model)
        self.tpot = metrics.tpot.labels(priority_class, model)
        self.earned = metrics.gain_earned.labels(priority_class, tenant)
        self.by_cause = {cause: metrics.gain_lost.labels(priority_class, tenant, cause) for cause in LossCause}
        self.attained = metrics.slo_attained.labels(priority_class, tenant)
        self.in_flight = metrics.in_flight.labels(priority_class, tenant)
        self.output_tokens = metrics.output_tokens.labels(priority_class, tenant, model)
        self.prompt_tokens = metrics.prompt_tokens.labels(priority_class, tenant, model)
        self.by_code = {200: metrics.requests.labels(priority_class, tenant, model, "200")}

    def ended(self, status: int) -> None:
        child = self.by_code.get(status)
        if child is None:
            child = self.by_code[status] = self.metrics.requests.labels(*self.labels, str(status))
        child.inc()


class Entry:
    """The account of one request, from arrival to end."""

    __slots__ = ("_accounting", "_expected_tokens", "_open", "_series", "account", "model", "request_id", "tenant")

    def __init__(
        self,
        *,
        accounting: "Accounting",
        series: _Series,
        account: RequestAccount,
        request_id: str,
        tenant: str,
        model: str,
        expected_tokens: float,
    ) -> None:
        self._accounting = accounting
        self._series = series
        self._expected_tokens = expected_tokens
        self._open = True
        self.account = account
        self.request_id = request_id
        self.tenant = tenant
        self.model = model

    def tokens(self, at_s: float, count: int = 1) -> None:
        """`count` tokens passed to the client at `at_s`, on the clock of the arrival."""
        account = self.account
        if account.first_s is None and count > 0:
            self._series.ttft.observe(at_s - account.arrival_s)
        account.tokens_at(at_s, count)

    def close(self, cause: LossCause | None = None, *, status: int = 200, prompt_tokens: int | None = None) -> None:
        """The request ended: by itself (`cause` None) or because of `cause`, which is charged for the tokens that
        will not come. `status` is what the client got. The first close counts, so that a clean-up path may close
        whatever is still open."""
        if not self._open:
            return
        self._open = False
        self._accounting.book(
            self,
            self._series,
            cause,
            status=CLIENT_CLOSED if cause is LossCause.CLIENT_CANCEL else status,
            prompt_tokens=prompt_tokens,
            expected_tokens=self._expected_tokens,
        )

    def refuse(self, status: int) -> None:
        """The engine refused the request itself (4xx): counted, but no gain could have come of it."""
        if not self._open:
            return
        self._open = False
        self._series.in_flight.dec()
        self._series.ended(status)


class Accounting:
    """Books of one gateway."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics
        self._lengths = OutputLengths()
        self._series: dict[tuple[str, str, str], _Series] = {}
        self._class_label, self._tenant_label, self._model_label = Bounded(), Bounded(), Bounded()
        self.ledger = GainLedger()

    def expected_output_tokens(self, *, model: str, priority_class: str, max_tokens: int | None) -> float:
        """What a new request will probably bring."""
        return self._lengths.expected(model=model, priority_class=priority_class, max_tokens=max_tokens)

    def open(
        self,
        *,
        request_id: str,
        terms: ServiceTerms,
        tenant: str,
        model: str,
        arrival_s: float,
        max_tokens: int | None = None,
    ) -> Entry:
        """Start the account of a request that was authenticated and asks for a model that exists.

        Tenant, class and model are names from the configuration: they become label values.
        """
        series = self._series_of(terms.priority_class, tenant, model)
        series.in_flight.inc()
        return Entry(
            accounting=self,
            series=series,
            account=RequestAccount(terms, arrival_s),
            request_id=request_id,
            tenant=tenant,
            model=model,
            expected_tokens=self._lengths.expected(
                model=model, priority_class=terms.priority_class, max_tokens=max_tokens
            ),
        )

    def refused(self, status: int, *, tenant: str | None = None, priority_class: str | None = None) -> None:
        """Count a request that was turned away before an account could be opened: bad key, unknown model, bad body.

        No gain is charged: it asked for nothing that could have been delivered.
        """
        self._metrics.requests.labels(
            OTHER if priority_class is None else self._class_label(priority_class),
            OTHER if tenant is None else self._tenant_label(tenant),
            OTHER,
            str(status),
        ).inc()

    def book(
        self,
        entry: Entry,
        series: _Series,
        cause: LossCause | None,
        *,
        status: int,
        prompt_tokens: int | None,
        expected_tokens: float,
    ) -> None:
        """Take a closed entry into ledger and metrics; called by the entry."""
        account = entry.account
        if cause is not None:
            # It ended before its time, so at least one token is missing.
            account.give_up(cause, max(round(expected_tokens), account.tokens + 1))
        elif account.tokens:
            self._lengths.finished(
                model=entry.model, priority_class=account.terms.priority_class, tokens=account.tokens
            )
        self.ledger.close(account, tenant=entry.tenant)
        series.in_flight.dec()
        series.ended(status)
        series.earned.inc(account.earned)
        for lost_by, gain in account.lost.items():
            series.by_cause[lost_by].inc(gain)
        if account.slo_attained:
            series.attained.inc()
        series.output_tokens.inc(account.tokens)
        if prompt_tokens:
            series.prompt_tokens.inc(prompt_tokens)
        if account.tokens > 1 and account.first_s is not None and account.last_s is not None:
            series.tpot.observe((account.last_s - account.first_s) / (account.tokens - 1))

    def _series_of(self, priority_class: str, tenant: str, model: str) -> _Series:
        key = (priority_class, tenant, model)
        series = self._series.get(key)
        if series is None:
            series = _Series(
                self._metrics, self._class_label(priority_class), self._tenant_label(tenant), self._model_label(model)
            )
            self._series[key] = series
        return series
