"""How many requests per second servers can do: a closed loop of a fixed number of requests in flight.

Each of `concurrency` senders per server sends its next request when the one before is answered: servers are busy
without a growing queue. Output is counted token by token, so that requests still running at the end count for the part
that they got.
"""

import asyncio
import itertools
from collections.abc import Sequence

import msgspec

from proserve_lab.judgement import percentile
from proserve_lab.replay import Replayer, ReplayRecord, ReplayRequest

SETTLING = 0.25
"""First part of the probe, in which the senders start one after another; not counted."""
TIMEOUT_S = 120.0


class ProbeError(Exception):
    """The servers can't be measured: requests failed, or none got an answer."""


class Throughput(msgspec.Struct, frozen=True, kw_only=True):
    """What the servers together did."""

    requests_per_s: float
    tokens_per_s: float
    """Output tokens."""
    ttft_p50_s: float
    tpot_p50_s: float


async def probe(
    requests: Sequence[ReplayRequest], *, urls: Sequence[str], model: str, concurrency: int, duration_s: float
) -> Throughput:
    """Keep `concurrency` of `requests` (over and over) in flight at each of `urls` for `duration_s`.

    Raises:
        ProbeError: a request failed, or no token came.
    """
    records: list[ReplayRecord] = []
    numbers = itertools.count()

    async def sender(replayer: Replayer, place: int) -> None:
        # All at once, their prompts would queue behind each other as they never do later.
        await asyncio.sleep(SETTLING * duration_s * place / concurrency)
        while True:
            number = next(numbers)
            record = ReplayRecord(request=requests[number % len(requests)], sent_s=replayer.now_s)
            records.append(record)
            await replayer.send(record, replayer.body(record.request, seed=number))
            if record.error is not None:
                raise ProbeError(record.error)

    senders = [
        asyncio.create_task(sender(replayer, place))
        for replayer in [Replayer(url=url, model=model, timeout_s=TIMEOUT_S) for url in urls]
        for place in range(concurrency)
    ]
    try:
        finished, _ = await asyncio.wait(senders, timeout=duration_s, return_when=asyncio.FIRST_EXCEPTION)
        for task in finished:
            task.result()
    finally:
        for task in senders:
            task.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
    return _throughput(records, duration_s)


def _throughput(records: Sequence[ReplayRecord], duration_s: float) -> Throughput:
    begin_s = SETTLING * duration_s
    counted = [
        (record, sum(begin_s <= at_s < duration_s for at_s in record.tokens_s)) for record in records if record.tokens_s
    ]
    tokens = sum(count for _, count in counted)
    if not tokens:
        raise ProbeError(f"no answer within {duration_s:g} s: the engines are too slow for this measurement")
    ttfts = [record.tokens_s[0] - record.sent_s for record, _ in counted]
    tpots = [
        (record.tokens_s[-1] - record.tokens_s[0]) / (len(record.tokens_s) - 1)
        for record, _ in counted
        if len(record.tokens_s) > 1
    ]
    window_s = duration_s - begin_s
    return Throughput(
        requests_per_s=sum(count / record.request.output_tokens for record, count in counted) / window_s,
        tokens_per_s=tokens / window_s,
        ttft_p50_s=percentile(ttfts, 50) or 0.0,
        tpot_p50_s=percentile(tpots, 50) or 0.0,
    )
