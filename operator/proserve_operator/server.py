"""The operator's process: its port, the election, and the acting operator while it leads."""

import asyncio
import logging
import os
import signal
import socket
from pathlib import Path

import msgspec

from proserve_operator.admin import serve_admin
from proserve_operator.kube_client import connect
from proserve_operator.leader import PatientLock, lead
from proserve_operator.operator_run import OperatorRun, log_level_of_libraries
from proserve_operator.settings import OperatorSettings

logger = logging.getLogger(__name__)

_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def own_namespace() -> str:
    """Of the pod that this process runs in; `default` elsewhere."""
    try:
        return _OWN_NAMESPACE.read_text().strip()
    except OSError:
        return "default"


def own_identity() -> str:
    """Name of the pod, or of the machine and process."""
    return os.environ.get("POD_NAME") or f"{socket.gethostname()}-{os.getpid()}"


async def serve(settings: OperatorSettings, *, host: str, port: int) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        KubeError: there is no cluster.
        LeadershipLostError, KindsChangedError: the process is to be started anew.
        OSError: the address can't be had.
    """
    settings = msgspec.structs.replace(settings, identity=settings.identity or own_identity())
    log_level_of_libraries()
    kube = await connect()
    run = OperatorRun(kube, settings)
    admin = await serve_admin(host, port, metrics=run.metrics, unhealthy=lambda: run.unhealthy)
    lock = PatientLock(settings.lease_name, settings.lease_namespace, settings.identity, kube.api)
    leading = asyncio.ensure_future(lead(lock, run.act, on_change=run.metrics.leader.set))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({leading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if leading.done():
            leading.result()
    finally:
        for task in (leading, stopping):
            task.cancel()
        await asyncio.wait({leading, stopping})
        await admin.cleanup()
        await kube.close()
