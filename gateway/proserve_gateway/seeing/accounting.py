"""Accounts for every request: gain by class, tenant and cause, latencies, tokens and outcomes.

Gain itself is computed by `proserve_core.gain`; this module opens one account per request, feeds it as tokens pass
and books the result when the request ends. Sums are plain numbers that `accounting_metrics` reads when it is scraped,
so there is one set of books and no lock per request; only the histograms are Prometheus' own.
"""

from collections import Counter
from collections.abc import Callable

from proserve_core.choices_account import ChoicesAccount
from proserve_core.gain import GainLedger, GainTotals, LossCause, RequestAccount
from proserve_core.objectives import ServiceTerms
from proserve_core.routing.output_lengths import OutputLengths
from proserve_gateway.metrics import OTHER, GatewayMetrics
from proserve_gateway.quotas.quotas import QuotaTicket
from proserve_gateway.seeing.length_bounds import LengthBounds

CLIENT_CLOSED = 499
"""Status of a request whose client left; never sent, only counted."""


class Series:
    """What is counted of one class, tenant and model, beside the gain in the ledger."""

    __slots__ = ("by_code", "in_flight", "output_tokens", "prompt_tokens", "tpot", "ttft")

    def __init__(self, metrics: GatewayMetrics, priority_class: str, model: str) -> None:
        self.ttft = metrics.ttft.labels(priority_class, model)
        self.tpot = metrics.tpot.labels(priority_class, model)
        self.in_flight = 0
        self.by_code: Counter[int] = Counter()
        self.output_tokens = 0
        self.prompt_tokens = 0


class Entry:
    """The account of one request, from arrival to end."""

    __slots__ = (
        "_accounting",
        "_open",
        "_series",
        "account",
        "choices",
        "expected_tokens",
        "generates",
        "model",
        "on_end",
        "on_length",
        "sent",
        "tenant",
        "ticket",
    )

    def __init__(
        self,
        *,
        accounting: "Accounting",
        series: Series,
        account: RequestAccount,
        tenant: str,
        model: str,
        choices: int,
        generates: bool,
        expected_tokens: float,
    ) -> None:
        self._accounting = accounting
        self._series = series
        self._open = True
        self.account = account
        self.tenant = tenant
        self.model = model
        self.choices = choices
        self.generates = generates
        self.expected_tokens = expected_tokens
        """What the request will probably bring, over all its choices; 0 when it does not generate."""
        self.on_end: Callable[[int, int | None], None] | None = None
        """Told status and, where it is known, the length of the prompt when the request has ended and is booked."""
        self.on_length: Callable[[bool], None] | None = None
        """Told at the end whether the output was complete."""
        self.ticket: QuotaTicket | None = None
        """What it holds of its tenant's quotas, settled when it ends."""
        self.sent = False
        """Whether an engine was given it."""

    def tokens(self, at_s: float, count: int = 1, of_choices: dict[int, int] | None = None) -> None:
        """`count` tokens passed to the client at `at_s`, on the clock of the arrival. `of_choices`: how many of them
        each of several choices had, where that is known; it is emptied."""
        account = self.account
        if account.first_s is None and count > 0:
            self._series.ttft.observe(at_s - account.arrival_s)
        if of_choices is not None and isinstance(account, ChoicesAccount):
            for index, tokens in of_choices.items():
                account.choice_at(at_s, index, tokens)
            of_choices.clear()
        else:
            account.tokens_at(at_s, count)

    def close(
        self,
        cause: LossCause | None = None,
        *,
        status: int = 200,
        prompt_tokens: int | None = None,
        late_s: float | None = None,
    ) -> None:
        """The request ended: by itself (`cause` None) or because of `cause`, which is charged for the tokens that
        will not come, but for those that were late at `late_s`. `status` is what the client got. The first close
        counts, so that a clean-up path may close whatever is still open."""
        if not self._open:
            return
        self._open = False
        if self.ticket is not None:
            self.ticket.settle(
                prompt_tokens=prompt_tokens,
                output_tokens=self.account.tokens,
                # A client that leaves while its prompt is computed has had that work.
                worked=self.sent and cause is LossCause.CLIENT_CANCEL,
            )
        if cause is LossCause.CLIENT_CANCEL:
            status = CLIENT_CLOSED
        self._accounting.book(self, self._series, cause, status=status, prompt_tokens=prompt_tokens, late_s=late_s)
        self._tell_length(complete=cause is None)
        self._tell(status, prompt_tokens)

    def refuse(self, status: int) -> None:
        """The engine refused the request itself (4xx): counted, but no gain could have come of it."""
        if not self._open:
            return
        self._open = False
        if self.ticket is not None:
            self.ticket.settle(prompt_tokens=0, output_tokens=0, worked=False)
        self._series.in_flight -= 1
        self._series.by_code[status] += 1
        self._tell_length(complete=False)
        self._tell(status, None)

    def _tell_length(self, *, complete: bool) -> None:
        if self.on_length is not None:
            self.on_length(complete)
            self.on_length = None

    def _tell(self, status: int, prompt_tokens: int | None) -> None:
        on_end, self.on_end = self.on_end, None  # what it leads to leads back here, and would wait for the collector
        if on_end is not None:
            on_end(status, prompt_tokens)


class Accounting:
    """Books of one gateway."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics
        self._lengths = OutputLengths()
        self._length_bounds = LengthBounds()
        self.ledger = GainLedger()
        self.series: dict[tuple[str, str, str], Series] = {}
        """By class, tenant and model."""
        self.by_model: dict[tuple[str, str], GainTotals] = {}
        """Gain by model and class."""
        self.refusals: Counter[tuple[str, str, int]] = Counter()
        """Requests turned away at the door, by class, tenant and status."""

    def open(
        self,
        *,
        terms: ServiceTerms,
        tenant: str,
        model: str,
        arrival_s: float,
        max_tokens: int | None = None,
        choices: int = 1,
        generates: bool = True,
    ) -> Entry:
        """Start the account of a request that was authenticated and asks for a model that exists.

        Tenant, class and model are names from the configuration: they become label values. A request that does not
        generate (embeddings) is counted, but has no tokens with deadlines and so no part in gain and attainment.
        """
        expected = 0.0
        if generates:
            expected = choices * self._lengths.expected(
                model=model, priority_class=terms.priority_class, max_tokens=max_tokens
            )
        series = self._series_of(terms.priority_class, tenant, model)
        series.in_flight += 1
        return Entry(
            accounting=self,
            series=series,
            account=RequestAccount(terms, arrival_s)
            if choices == 1
            else ChoicesAccount(terms, arrival_s, choices=choices),
            tenant=tenant,
            model=model,
            choices=choices,
            generates=generates,
            expected_tokens=expected,
        )

    def refused(self, status: int, *, tenant: str | None = None, priority_class: str | None = None) -> None:
        """Count a request that was turned away before an account could be opened: bad key, unknown model, bad body.

        No gain is charged: it asked for nothing that could have been delivered.
        """
        self.refusals[priority_class or OTHER, tenant or OTHER, status] += 1

    def book(
        self,
        entry: Entry,
        series: Series,
        cause: LossCause | None,
        *,
        status: int,
        prompt_tokens: int | None,
        late_s: float | None,
    ) -> None:
        """Take a closed entry into ledger and metrics; called by the entry."""
        account = entry.account
        series.in_flight -= 1
        series.by_code[status] += 1
        series.prompt_tokens += prompt_tokens or 0
        if not entry.generates:
            return
        if cause is not None:
            # It ended before its time, so at least one token is missing.
            account.give_up(cause, max(round(entry.expected_tokens), account.tokens + 1), late_s=late_s)
        elif account.tokens:
            model, name, choices = entry.model, account.terms.priority_class, entry.choices
            tokens = self._length_bounds.believed(
                account.tokens / choices, model=model, priority_class=name, expected=entry.expected_tokens / choices
            )
            self._lengths.finished(model=model, priority_class=name, tokens=tokens)
        self.ledger.close(account, tenant=entry.tenant)
        self._of_model(entry.model, account.terms.priority_class).add(account)
        series.output_tokens += account.tokens
        for sequence in account.accounts if isinstance(account, ChoicesAccount) else (account,):
            # What came at once took no time per token.
            first_s, last_s = sequence.first_s, sequence.last_s
            if first_s is not None and last_s is not None and last_s > first_s:
                series.tpot.observe((last_s - first_s) / (sequence.tokens - 1))

    def _of_model(self, model: str, priority_class: str) -> GainTotals:
        key = (model, priority_class)
        totals = self.by_model.get(key)
        if totals is None:
            totals = self.by_model[key] = GainTotals()
        return totals

    def _series_of(self, priority_class: str, tenant: str, model: str) -> Series:
        key = (priority_class, tenant, model)
        series = self.series.get(key)
        if series is None:
            series = self.series[key] = Series(self._metrics, priority_class, model)
        return series
