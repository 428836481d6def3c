"""An OpenAI server that knows nothing of ProServe: the emulator with everything but /v1 and /health hidden.

`python plain_openai_server.py PORT MODEL`
"""

import asyncio
import sys
import time

import uvicorn

from proserve_engine.emulator.app import EmulatorApp, Receive, Scope, Send
from proserve_engine.emulator.clockwork import Clockwork
from proserve_engine.emulator.server import EmulatorOptions, build_replica


async def main(port: int, model: str) -> None:
    options = EmulatorOptions(calibration="cpu-tiny", policy="fcfs", model=model)
    clockwork = Clockwork(build_replica(options), time.monotonic)
    emulator = EmulatorApp(clockwork, model=model)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if not scope["path"].startswith(("/v1/", "/health")):
            scope = {**scope, "path": "/hidden"}
        await emulator(scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(app, port=port, lifespan="off", log_config=None))
    await asyncio.gather(clockwork.run(), server.serve())


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
