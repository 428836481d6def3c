"""60 streams on the pool `tiny` while a test does something to the cluster.

Deadlines are generous, because two cores run the whole cluster; what is tested is that nobody waits for something that
has gone.
"""

import asyncio
from collections.abc import Callable

from installation import Installation
from steady_load import Client, Load

CLIENTS = [
    Client(name="high", key="sk-demo-product", streams=20, first_token_s=10, output_token_s=1),
    Client(name="low", key="sk-demo-reports", streams=40, first_token_s=30, output_token_s=3),
]
TOKENS = 100
Disturbance = Callable[[Installation], None]


def load_on(installation: Installation) -> Load:
    """It runs in its `running` block."""
    return Load(installation.http, CLIENTS, model="tiny", tokens=TOKENS)


async def disturbed(installation: Installation, disturb: Disturbance, *, settle_s: float = 3) -> Load:
    """Load before, during and after what `disturb` does."""
    load = load_on(installation)
    async with load.running():
        await load.all_open()
        await asyncio.to_thread(disturb, installation)
        await asyncio.sleep(settle_s)
    return load


def assert_nothing_lost(load: Load) -> None:
    assert load.failures() == []
    assert load.attainment("high") >= 0.99, [
        (each.status, each.problem, each.late_tokens) for each in load.outcomes if not each.attained
    ][:5]
