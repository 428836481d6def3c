"""Quotas shared through a real store while calls and answers get lost: in doubt too tight for a while, never open."""

import asyncio
import itertools
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lossy_proxy import Loss, LossyProxy, lossy_proxy
from proserve_core.admission.quota import Reservation, TenantUsage
from proserve_core.objectives import TenantLimits
from proserve_gateway.quotas import store as quota_store
from proserve_gateway.quotas import tenant as quota_tenant
from proserve_gateway.quotas.quotas import QuotaTicket
from quota_replicas import Replica, Wall, exchanged, replicas, states
from quota_server import QuotaServer, quota_server

LIMITS = (
    TenantLimits(tokens_per_minute=100),
    TenantLimits(max_in_flight=2),
    TenantLimits(requests_per_minute=6, tokens_per_minute=100, max_in_flight=4),
)
EXAMPLES = 30
Step = tuple[str, int, int, bytes, Sequence[Loss]]
TENANT = b"/a/"
"""In the names of the tenant's counters."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuotaServer]:
    with quota_server(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no slow store."""
    monkeypatch.setattr(quota_tenant, "ANSWER_S", 20.0)
    monkeypatch.setattr(quota_store, "CALL_S", 20.0)


async def test_tokens_given_back_in_a_call_whose_answer_is_lost_are_not_given_back_twice(server: QuotaServer) -> None:
    limits = TenantLimits(tokens_per_minute=200)
    async with lossy_proxy(server) as proxy, replicas(proxy.url) as ((one, two), _):
        (small,) = await one.admitted(limits, tokens=100)
        await two.admitted(limits, tokens=100)
        small.settle(prompt_tokens=10, output_tokens=0, worked=True)
        proxy.about, proxy.losses = TENANT, [Loss.ANSWER]
        await one.beat()
        assert states(one) == [False]
        await recovered([one, two])
        assert await two.admitted(limits, tokens=91) == []
        assert await one.admitted(limits, tokens=91) == []


class Shared:
    """Two gateways whose store loses things, and one that knows all that they admit."""

    def __init__(self, made: list[Replica], wall: Wall, proxy: LossyProxy, limits: TenantLimits) -> None:
        self.made, self.wall, self.proxy, self.limits = made, wall, proxy, limits
        self.all_knowing = TenantUsage("all")
        self.open: list[tuple[Replica, QuotaTicket, Reservation]] = []

    async def admit(self, replica: Replica, tokens: int) -> bool:
        """Whether a request is admitted, which it may be only if it fits."""
        asked = self.all_knowing.reserve(tokens, self.wall.now_s)
        refusal = self.all_knowing.refusal(asked, self.limits)
        tickets = await replica.admitted(self.limits, tokens=tokens)
        if not tickets:
            self.all_knowing.abandon(asked)
            return False
        if replica.store.up:
            assert refusal is None
        self.all_knowing.decide(asked, TenantLimits())
        self.open.append((replica, tickets[0], asked))
        return True

    def settle(self, tokens: int) -> Replica | None:
        """The oldest request ends and took at most what was reserved; at which gateway."""
        if not self.open:
            return None
        replica, ticket, asked = self.open.pop(0)
        used = min(tokens, asked.tokens)
        ticket.settle(prompt_tokens=used, output_tokens=0, worked=True)
        self.all_knowing.settle(asked, used, self.wall.now_s)
        return replica

    async def step(self, step: Step) -> None:
        what, number, amount, about, losses = step
        replica = self.made[number]
        self.proxy.about, self.proxy.losses = about, list(losses)
        if what == "admit":
            await self.admit(replica, amount)
        elif what == "settle":
            replica = self.settle(amount) or replica
        else:
            self.wall.now_s += amount
        await replica.beat()
        self.proxy.losses = []
        await recovered(self.made)


async def recovered(made: Sequence[Replica]) -> None:
    """Everybody has reached the store again and said what it lacks."""
    await exchanged()
    for each in (*made, *made):
        await each.beat()
    assert all(each.store.up for each in made)


losses = st.lists(st.sampled_from(Loss), max_size=3)
about = st.sampled_from([TENANT, b""])
tokens = st.sampled_from([10, 40, 60])
steps = st.one_of(
    st.tuples(st.just("admit"), st.integers(0, 1), tokens, about, losses),
    st.tuples(st.just("settle"), st.just(0), st.sampled_from([0, 5, 60]), about, losses),
    st.tuples(st.just("time"), st.integers(0, 1), st.just(2), about, losses),
)


@st.composite
def rounds(draw: st.DrawFn) -> list[Step]:
    """Both gateways admit, one of them loses something when it gives back, both try again: by chance that is rare."""
    both: list[Step] = [("admit", number, draw(tokens), TENANT, []) for number in (0, 1, 0, 1)]
    return [*both[:2], ("settle", 0, draw(st.sampled_from([0, 5])), draw(about), draw(losses)), *both[2:]]


scripts = st.lists(st.one_of(steps.map(lambda step: [step]), rounds()), min_size=1, max_size=5).map(
    lambda parts: [step for part in parts for step in part]
)


def test_nothing_is_admitted_beyond_a_limit_and_what_was_lost_is_forgotten_in_two_minutes(server: QuotaServer) -> None:
    minutes = itertools.count(20_000, 10)

    async def run(limits: TenantLimits, script: Sequence[Step]) -> None:
        async with (
            lossy_proxy(server) as proxy,
            replicas(proxy.url, start_s=next(minutes) * 60.0) as (made, wall),
        ):
            shared = Shared(made, wall, proxy, limits)
            for step in script:
                await shared.step(step)
            while shared.open:
                shared.settle(60)
            await recovered(made)
            wall.now_s += 120.0
            await recovered(made)
            # Exactly the whole limit, in two parts.
            assert [await shared.admit(each, 50) for each in (*made, *made)] == [True, True, False, False]

    @settings(max_examples=EXAMPLES)
    @given(st.sampled_from(LIMITS), scripts)
    def runs(limits: TenantLimits, script: Sequence[Step]) -> None:
        asyncio.run(run(limits, script))

    runs()
