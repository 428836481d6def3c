"""`proserve bench polling`: what it costs the gateway to follow many engines."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from proserve_cli.failures import failed, needs_extra

if TYPE_CHECKING:
    from proserve_lab.bench.proxies import Proxy


def polling(
    *,
    engines: Annotated[list[int] | None, typer.Option(help="How many; may be repeated.", min=1, max=1024)] = None,
    seconds: Annotated[float, typer.Option(help="Over which CPU time is taken.", min=1)] = 10.0,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """CPU time of polling busy engines, and how old their snapshots are, next to the targets. Needs two cores."""
    with needs_extra("gateway"):
        import uvloop  # noqa: F401 - gateway and engines run as processes of their own
    from proserve_lab.bench.polling import report, run
    from proserve_lab.bench.proxies import BenchError

    try:
        results = [run(engines=count, seconds=seconds, start=_gateway) for count in engines or (16, 64, 256)]
    except BenchError as error:
        raise failed(error) from error
    if json:
        typer.echo(msgspec.json.encode(results).decode())
    else:
        for result in results:
            typer.echo(report(result))


@contextmanager
def _gateway(folder: Path, urls: list[str], core: int) -> Iterator["Proxy"]:
    """A gateway in front of engines with capacity, which resource files cannot name."""
    from proserve_cli.gateway_process import GatewayEngine, GatewayFile
    from proserve_lab.bench.proxies import Proxy, process, resources_text
    from proserve_lab.free_port import free_port

    config = GatewayFile(
        resources=resources_text([]),
        engines=[
            GatewayEngine(name=f"bench-{number}", pool="bench", base_url=url, capacity_url=url)
            for number, url in enumerate(urls)
        ],
        http_port=free_port(),
        admin_port=free_port(),
    )
    file = folder / "gateway.json"
    file.write_bytes(msgspec.json.encode(config))
    command = [sys.executable, "-m", "proserve_cli.gateway_process", str(file)]
    with process(command, folder / "gateway.out", config.http_port, core) as pid:
        yield Proxy(config.http_port, pid, admin_port=config.admin_port)
