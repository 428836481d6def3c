"""Runs one emulated engine as a process: builds the replica from a calibration and serves it with uvicorn."""

import asyncio
import contextlib
import logging
import math
import signal
import socket
import ssl
import time
import uuid
from collections.abc import Iterator

import msgspec
import uvicorn

from proserve_core.batching.registry import make_policy
from proserve_core.blocks import LinkModel
from proserve_core.blocks.settings import KvOffload
from proserve_core.kv_host import KvHost, host_of
from proserve_core.latency import LatencyModel
from proserve_core.latency.calibrations import Calibration, load_calibration
from proserve_core.replica import Replica
from proserve_engine.access import EngineAccess, keys_from
from proserve_engine.emulator.app import EmulatorApp
from proserve_engine.emulator.clockwork import Clockwork
from proserve_engine.tls import TlsPair, serving_tls

logger = logging.getLogger(__name__)

STOP_GRACE_S = 1
"""Seconds that open streams get when the engine is told to stop; then they end without an end mark."""
KEEP_ALIVE_S = 75
"""Longer than gateways keep idle connections, so that it is they who close them."""


class EmulatorOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What to emulate and where to serve it."""

    calibration: str
    policy: str
    host: str = "127.0.0.1"
    port: int = 8000
    model: str | None = None
    """Name to serve; None: the calibration's model."""
    kv_blocks: int | None = None
    """KV blocks of the engine; None: as calibrated."""
    max_sequences: int | None = None
    """Requests that are resident at a time; None: as calibrated."""
    kv_offload: KvOffload | None = None
    """What is kept of preempted requests; None: nothing."""
    key_file: str | None = None
    """File with the engine's keys (see `access`); None: everybody is let in."""
    tls: TlsPair | None = None
    """None: it speaks plain text."""
    speed: float = 1.0
    """How many times as fast as calibrated. Deadlines stay as they are: it is a faster engine, not a faster clock."""


def build_replica(options: EmulatorOptions) -> Replica:
    """The engine that the options describe.

    Raises:
        KeyError: there is no such calibration.
        PolicyError: there is no such policy.
        KvOffloadError: the host's memory has no room for a block.
        ValueError: a number is out of range.
    """
    if not 0 < options.speed < math.inf:
        raise ValueError(f"speed: expected a number above 0, got {options.speed:g}")
    for name, value in (("kv-blocks", options.kv_blocks), ("max-sequences", options.max_sequences)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    calibration = load_calibration(options.calibration)
    kv_host = host_of(calibration, options.kv_offload)
    return Replica(
        policy=make_policy(options.policy),
        policy_name=options.policy,
        limits=calibration.limits(blocks=options.kv_blocks, max_sequences=options.max_sequences),
        latency=faster(calibration.latency, options.speed),
        kv_host=kv_host and faster_copies(kv_host, options.speed),
        model=served_model(options, calibration),
        engine_id=uuid.uuid4().hex,
    )


def served_model(options: EmulatorOptions, calibration: Calibration) -> str:
    """The name clients ask for."""
    return options.model or calibration.model


def faster(latency: LatencyModel, speed: float) -> LatencyModel:
    """The latency model of an engine `speed` times as fast."""
    return LatencyModel(**{name: value / speed for name, value in msgspec.structs.asdict(latency).items()})


def faster_copies(host: KvHost, speed: float) -> KvHost:
    """Host memory whose link is `speed` times as fast."""

    def link(model: LinkModel) -> LinkModel:
        return LinkModel(call_s=model.call_s / speed, byte_s=model.byte_s / speed)

    transfer = host.transfer
    return msgspec.structs.replace(
        host,
        transfer=msgspec.structs.replace(transfer, offload=link(transfer.offload), restore=link(transfer.restore)),
    )


def run_emulator(replica: Replica, options: EmulatorOptions) -> int:
    """Serve `replica`, built from `options`, until SIGTERM or SIGINT. Returns the exit code.

    Raises:
        OSError: the port can't be had.
        AccessKeysError: the key file can't be used.
        TlsError: the certificate can't be used.
    """
    tls: ssl.SSLContext | None = serving_tls(options.tls)
    model = served_model(options, load_calibration(options.calibration))
    listener = socket.create_server((options.host, options.port), backlog=2048)
    clockwork = Clockwork(replica, time.monotonic)
    config = uvicorn.Config(
        EngineAccess(EmulatorApp(clockwork, model=model), keys_from(options.key_file)),
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level=logging.WARNING,
        timeout_graceful_shutdown=STOP_GRACE_S,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    config.load()
    config.ssl = tls
    scheme = "http" if tls is None else "https"
    host, port = listener.getsockname()[:2]
    logger.info("%s under %s as %s on %s://%s:%d", options.calibration, options.policy, model, scheme, host, port)
    with listener, asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        return runner.run(_serve(clockwork, _Server(config), listener))


class _Server(uvicorn.Server):
    """Leaves the signals to us: uvicorn raises them again when it is done, which would hide the exit code."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(clockwork: Clockwork, server: uvicorn.Server, listener: socket.socket) -> int:
    def stop() -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    engine = asyncio.ensure_future(clockwork.run())
    serving = asyncio.ensure_future(server.serve([listener]))
    await asyncio.wait({engine, serving}, return_when=asyncio.FIRST_COMPLETED)
    if not engine.done():
        engine.cancel()
        serving.result()
        return 0
    # Only an error ends the engine; without it every stream would hang.
    logger.critical("the emulated engine stopped", exc_info=engine.exception())
    stop()
    await serving
    return 1
