"""Lengths are learned per choice and expected of all choices of a request."""

import pytest

from pool_queue_bench import inference_request, priority_class
from proserve_core.objectives import Overload
from proserve_gateway.metrics import GatewayMetrics
from proserve_gateway.requests.pool_lengths import PoolLengths
from proserve_gateway.seeing.accounting import Accounting, Entry

CLASS = priority_class("high", Overload())


class Pool:
    """Requests of one tenant that follow each other, a second apart."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.lengths = PoolLengths(clock=lambda: self.now_s)
        self.accounting = Accounting(GatewayMetrics())

    def arrives(self, choices: int) -> tuple[float, Entry]:
        """Expected tokens, and the account of what comes."""
        self.now_s += 1.0
        request = inference_request(CLASS, arrival_s=self.now_s)
        entry = self.accounting.open(
            terms=request.terms, tenant=request.tenant, model="chat", arrival_s=self.now_s, choices=choices
        )
        return self.lengths.expect(request, entry, prompt_tokens=10, prefix=""), entry

    def answers(self, *, choices: int, tokens: int) -> None:
        """So many tokens in each choice."""
        _, entry = self.arrives(choices)
        entry.tokens(self.now_s, choices * tokens)
        entry.close()


@pytest.mark.parametrize("learned_of", [1, 4])
def test_every_choice_is_expected_to_be_as_long_as_choices_were(learned_of: int) -> None:
    pool = Pool()
    for _ in range(100):
        pool.answers(choices=learned_of, tokens=30)
    one, entry = pool.arrives(1)
    entry.close()
    three, _ = pool.arrives(3)
    assert one == pytest.approx(30, rel=0.2)
    assert three == pytest.approx(3 * one, rel=0.05)
