"""A gateway as a process of its own, for engines that we started: `python -m proserve_cli.gateway_process FILE`.

The demo's client must not share an interpreter with the gateway that it measures. The resource files cannot name an
engine's capacity port, so engines come beside them.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from proserve_cli.local_engines import EngineSpec
from proserve_core.resources import parse_resources
from proserve_lab.free_port import free_port


class GatewayEngine(msgspec.Struct, frozen=True, kw_only=True):
    """One engine behind the gateway."""

    name: str
    pool: str
    base_url: str
    capacity_url: str
    """Empty: it publishes none."""


class GatewayFile(msgspec.Struct, frozen=True, kw_only=True):
    """What the process reads."""

    resources: str
    """YAML."""
    engines: list[GatewayEngine]
    http_port: int
    admin_port: int


def gateway_spec(*, name: str, resources: str, engines: Sequence[EngineSpec], folder: Path) -> EngineSpec:
    """How to start a gateway in front of `engines`; `folder` gets its configuration."""
    config = GatewayFile(
        resources=resources,
        engines=[
            GatewayEngine(name=each.name, pool=each.pool, base_url=each.base_url, capacity_url=each.capacity_url)
            for each in engines
        ],
        http_port=free_port(),
        admin_port=free_port(),
    )
    file = folder / f"{name}.json"
    file.write_bytes(msgspec.json.encode(config))
    admin = f"http://127.0.0.1:{config.admin_port}"
    return EngineSpec(
        name=name,
        pool="",
        policy="",
        command=[sys.executable, "-m", "proserve_cli.gateway_process", str(file)],
        environment=dict(os.environ),
        base_url=f"http://127.0.0.1:{config.http_port}",
        capacity_url="",
        ready_urls=(f"{admin}/readyz",),
    )


def main(file: Path) -> None:
    """Run the gateway that `file` describes."""
    from proserve_gateway.fleet.target import EngineTarget
    from proserve_gateway.server import GatewayConfig, Listen, run_gateway

    config = msgspec.json.decode(file.read_bytes(), type=GatewayFile)
    targets = [
        EngineTarget(name=each.name, pool=each.pool, base_url=each.base_url, capacity_url=each.capacity_url or None)
        for each in config.engines
    ]
    run_gateway(
        GatewayConfig(
            resources=parse_resources({file.name: config.resources}),
            engines=tuple(targets),
            http=Listen("127.0.0.1", config.http_port),
            admin=Listen("127.0.0.1", config.admin_port),
            drain_s=1.0,
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
