"""Many engines in one process, as far as polls can tell: `python -m proserve_lab.bench.polled_engines COUNT PORT`.

They listen on COUNT ports from PORT on, each with a steady batch whose snapshot changes at every step. Polls are
answered as an engine does, at once if something changed and else when it does; nothing is generated.
"""

import asyncio
import re
import sys
from functools import partial
from typing import cast

import msgspec

from proserve_core.capacity import CapacitySnapshot, RequestRow, encode_snapshot
from proserve_core.latency.calibrations import load_calibration

STEP_S = 0.03
"""Of a GPU that decodes a large batch."""
REQUESTS = 32
"""Running at each engine."""
_ASKED = re.compile(rb"GET /capacity(?:\?after=(\d+)&wait=(\d+))?")
_MODELS = b'{"object":"list","data":[]}'


class _Engine:
    def __init__(self, number: int) -> None:
        self.seq = 1
        self.waiting: set[_Poll] = set()
        calibration = load_calibration("h100-llama-3.1-8b")
        self._snapshot = CapacitySnapshot(
            seq=1,
            engine_id=f"engine-{number}",
            model="bench",
            policy="fcfs",
            age_s=0.0,
            block_size=calibration.block_size,
            blocks=calibration.blocks,
            free_blocks=calibration.blocks // 2,
            running=REQUESTS,
            waiting=0,
            max_sequences=calibration.max_sequences,
            max_step_tokens=calibration.max_step_tokens,
            step_age_s=0.0,
            step_predicted_s=STEP_S,
            latency=calibration.latency,
            rows=tuple(
                RequestRow(
                    id=f"cmpl-{number:04x}{row:08x}-0", priority_class="bench", weight=1, first_token_gain=1,
                    output_token_gain=1, tpot_s=0.05, decoding=True, resident=True, prefill_tokens=0,
                    context_tokens=800 + row, emitted_tokens=100, deadline_in_s=0.5,
                )
                for row in range(REQUESTS)
            ),
        )  # fmt: skip
        self._body = b""

    def body(self) -> bytes:
        """The snapshot now; its age is always that of a step that just began."""
        if not self._body:
            self._body = encode_snapshot(msgspec.structs.replace(self._snapshot, seq=self.seq))
        return self._body

    async def run(self, first_s: float) -> None:
        await asyncio.sleep(first_s)
        while True:
            self.seq += 1
            self._body = b""
            for poll in list(self.waiting):
                poll.answer()
            await asyncio.sleep(STEP_S)


class _Poll(asyncio.Protocol):
    """One connection of a poller."""

    def __init__(self, engine: _Engine) -> None:
        self._engine = engine

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._engine.waiting.discard(self)

    def data_received(self, data: bytes) -> None:
        asked = _ASKED.match(data)
        if asked is None:
            self._send(_MODELS)
        elif asked[1] is not None and int(asked[1]) >= self._engine.seq:
            self._engine.waiting.add(self)
        else:
            self.answer()

    def answer(self) -> None:
        """Tell the state now."""
        self._engine.waiting.discard(self)
        self._send(self._engine.body())

    def _send(self, body: bytes) -> None:
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        )


async def serve(count: int, first_port: int) -> None:
    """Until the process is ended."""
    loop = asyncio.get_running_loop()
    engines = [_Engine(number) for number in range(count)]
    for number, engine in enumerate(engines):
        # The last one to listen is the one that is waited for.
        await loop.create_server(partial(_Poll, engine), "127.0.0.1", first_port + number)
    await asyncio.gather(*(engine.run(STEP_S * number / count) for number, engine in enumerate(engines)))


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
