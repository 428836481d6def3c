"""Every request ends in the books once, with its gain and the cause of what it lost."""

import pytest

from proserve_core.gain import LossCause
from proserve_core.objectives import PriorityClass, ServiceObjectives, ServiceTerms
from proserve_core.routing.output_lengths import FIRST_GUESS_TOKENS
from proserve_gateway.metrics import OTHER, Bounded, GatewayMetrics
from proserve_gateway.seeing.accounting import CLIENT_CLOSED, Accounting, Entry
from proserve_gateway.seeing.accounting_metrics import AccountingCollector

HIGH: ServiceTerms = PriorityClass(
    name="high", weight=2, objectives=ServiceObjectives(ttft_s=1.0, tpot_s=0.1), first_token_gain=5
).terms()


class Books:
    def __init__(self) -> None:
        self.metrics = GatewayMetrics()
        self.accounting = Accounting(self.metrics)
        AccountingCollector(self.accounting, self.metrics)

    def open(self, max_tokens: int | None = None, *, choices: int = 1, generates: bool = True) -> Entry:
        return self.accounting.open(
            terms=HIGH,
            tenant="acme",
            model="tiny",
            arrival_s=10.0,
            max_tokens=max_tokens,
            choices=choices,
            generates=generates,
        )

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"proserve_gateway_{name}", labels)


@pytest.fixture
def books() -> Books:
    return Books()


def test_request_on_time_earns_everything(books: Books) -> None:
    entry = books.open()
    entry.tokens(10.5)
    entry.tokens(10.6, 2)
    entry.close(prompt_tokens=7)
    totals = books.accounting.ledger.by_class_and_tenant["high", "acme"]
    assert (totals.earned, totals.earnable) == (14.0, 14.0)
    assert books.value("gain_earned_total", **{"class": "high"}, tenant="acme") == 14.0
    assert books.value("requests_slo_attained_total", **{"class": "high"}, tenant="acme") == 1
    assert books.value("requests_total", **{"class": "high"}, tenant="acme", model="tiny", code="200") == 1
    assert books.value("output_tokens_total", **{"class": "high"}, tenant="acme", model="tiny") == 3
    assert books.value("prompt_tokens_total", **{"class": "high"}, tenant="acme", model="tiny") == 7
    assert books.value("time_to_first_token_seconds_sum", **{"class": "high"}, model="tiny") == pytest.approx(0.5)
    assert books.value("time_per_output_token_seconds_sum", **{"class": "high"}, model="tiny") == pytest.approx(0.05)


def test_late_tokens_are_lost_with_their_cause(books: Books) -> None:
    entry = books.open()
    entry.tokens(11.5)
    entry.tokens(11.6)
    entry.close()
    lost = {
        cause: books.value("gain_lost_total", **{"class": "high"}, tenant="acme", cause=cause) for cause in LossCause
    }
    assert lost[LossCause.LATE_FIRST_TOKEN] == 10.0
    assert lost[LossCause.LATE_TOKEN_QUEUED] == 2.0
    assert sum(value or 0 for value in lost.values()) == 12.0
    assert books.value("requests_slo_attained_total", **{"class": "high"}, tenant="acme") == 0


def test_count_beyond_belief_does_not_decide_what_others_are_expected_to_bring(books: Books) -> None:
    for tokens in [100] * 50 + [500_000]:
        entry = books.open()
        entry.tokens(10.5, tokens)
        entry.close()
    assert 100 < books.open().expected_tokens < 120


def test_engine_failure_is_charged_for_the_tokens_that_will_not_come(books: Books) -> None:
    entry = books.open(max_tokens=11)
    entry.tokens(10.5)
    entry.close(LossCause.ENGINE_FAILURE, status=502)
    assert books.value("gain_lost_total", **{"class": "high"}, tenant="acme", cause="engine_failure") == 20.0
    assert books.value("requests_total", **{"class": "high"}, tenant="acme", model="tiny", code="502") == 1


def test_request_cut_off_beyond_its_expected_length_still_loses_a_token(books: Books) -> None:
    entry = books.open(max_tokens=2)
    entry.tokens(10.5, 2)
    entry.close(LossCause.CLIENT_CANCEL)
    assert books.value("gain_lost_total", **{"class": "high"}, tenant="acme", cause="client_cancel") == 2.0
    assert books.value("requests_total", **{"class": "high"}, tenant="acme", model="tiny", code=str(CLIENT_CLOSED)) == 1


def test_only_the_first_close_counts(books: Books) -> None:
    entry = books.open()
    entry.tokens(10.5)
    entry.close()
    entry.close(LossCause.CLIENT_CANCEL)
    assert books.accounting.ledger.total().requests == 1
    assert books.value("requests_in_flight", **{"class": "high"}, tenant="acme", model="tiny") == 0


def test_in_flight_counts_open_requests(books: Books) -> None:
    books.open()
    books.open().close()
    assert books.value("requests_in_flight", **{"class": "high"}, tenant="acme", model="tiny") == 1


def test_expected_length_follows_finished_requests_and_the_clients_limit(books: Books) -> None:
    def expected(max_tokens: int | None = None) -> float:
        entry = books.open(max_tokens)
        entry.refuse(400)
        return entry.expected_tokens

    assert expected() == FIRST_GUESS_TOKENS
    for _ in range(3):
        entry = books.open()
        entry.tokens(10.5, 40)
        entry.close()
    cut_off = books.open()
    cut_off.tokens(10.5)
    cut_off.close(LossCause.CLIENT_CANCEL)
    assert expected() == pytest.approx(40)
    assert expected(max_tokens=8) == 8


def test_length_of_a_request_with_several_choices_is_learned_per_choice(books: Books) -> None:
    several = books.open(choices=4)
    assert several.expected_tokens == 4 * FIRST_GUESS_TOKENS
    several.tokens(10.5, 40)
    several.close()
    assert books.open().expected_tokens == 10
    assert books.open(choices=4).expected_tokens == 40


def test_each_choice_earns_a_first_token_and_has_a_time_per_token_of_its_own(books: Books) -> None:
    both = books.open(choices=2)
    both.tokens(10.5, 2, {0: 1, 1: 1})
    both.tokens(10.7, 4, {0: 2, 1: 2})
    both.close()
    assert books.accounting.ledger.total().earned == 2 * (10.0 + 2 * 2.0)
    of_class = {"class": "high", "model": "tiny"}
    assert books.value("time_per_output_token_seconds_count", **of_class) == 2
    assert books.value("time_per_output_token_seconds_sum", **of_class) == pytest.approx(2 * 0.1)
    assert books.value("time_to_first_token_seconds_count", **of_class) == 1


def test_tokens_that_came_at_once_have_no_time_between_them(books: Books) -> None:
    whole = books.open()
    whole.tokens(10.5, 40)
    whole.close()
    assert books.value("time_per_output_token_seconds_count", **{"class": "high"}, model="tiny") in (None, 0)


@pytest.mark.parametrize("cause", [None, LossCause.ENGINE_FAILURE])
def test_request_that_does_not_generate_is_counted_but_takes_no_part_in_gain(
    books: Books, cause: LossCause | None
) -> None:
    books.open(generates=False).close(cause, prompt_tokens=7)
    assert books.value("requests_total", **{"class": "high"}, tenant="acme", model="tiny", code="200") == 1
    assert books.value("prompt_tokens_total", **{"class": "high"}, tenant="acme", model="tiny") == 7
    assert books.value("requests_in_flight", **{"class": "high"}, tenant="acme", model="tiny") == 0
    assert books.accounting.ledger.total().requests == 0


def test_gain_is_exposed_from_zero_on(books: Books) -> None:
    books.open()
    assert books.value("gain_earned_total", **{"class": "high"}, tenant="acme") == 0
    assert books.value("gain_lost_total", **{"class": "high"}, tenant="acme", cause="shed") == 0


def test_request_that_the_engine_refuses_costs_no_gain(books: Books) -> None:
    books.open().refuse(400)
    assert books.value("requests_total", **{"class": "high"}, tenant="acme", model="tiny", code="400") == 1
    assert books.value("requests_in_flight", **{"class": "high"}, tenant="acme", model="tiny") == 0
    assert books.accounting.ledger.total().requests == 0


def test_refused_requests_are_counted_without_gain(books: Books) -> None:
    books.accounting.refused(401)
    books.accounting.refused(404, tenant="acme", priority_class="high")
    assert books.value("requests_total", **{"class": OTHER}, tenant=OTHER, model=OTHER, code="401") == 1
    assert books.value("requests_total", **{"class": "high"}, tenant="acme", model=OTHER, code="404") == 1
    assert books.accounting.ledger.total().requests == 0


def test_label_values_beyond_the_limit_become_other() -> None:
    label = Bounded(limit=2)
    assert [label(value) for value in ("a", "b", "c", "a")] == ["a", "b", OTHER, "a"]
