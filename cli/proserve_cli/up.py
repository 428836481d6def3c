"""`proserve up`: the engines of every pool as local processes and a gateway in front of them, until Ctrl-C."""

import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from proserve_cli.addresses import parse_address
from proserve_cli.engine_kind import EngineKind
from proserve_cli.failures import failed, needs_extra, wrong_usage
from proserve_cli.output_files import check_output_file

if TYPE_CHECKING:
    from proserve_core.pools import EnginePool
    from proserve_core.resources import Resources

RecordOption = Annotated[
    Path | None,
    typer.Option(help="Write a line of JSON per request to this file, without prompts.", metavar="FILE"),
]

HTTP, GRPC, ADMIN = "127.0.0.1:8000", "127.0.0.1:8001", "127.0.0.1:9090"


def up(
    *,
    files: Annotated[list[Path], typer.Option("--file", "-f", help="Resources (YAML); may be given several times.")],
    engine: Annotated[EngineKind, typer.Option(help="What runs as engines.")] = EngineKind.VLLM,
    http: Annotated[str, typer.Option(help="Address of the OpenAI HTTP API.", metavar="HOST:PORT")] = HTTP,
    grpc: Annotated[str, typer.Option(help="Address of the gRPC API.", metavar="HOST:PORT")] = GRPC,
    admin: Annotated[str, typer.Option(help="Address of metrics, readiness, status.", metavar="HOST:PORT")] = ADMIN,
    record: RecordOption = None,
    engine_key_file: Annotated[
        Path | None,
        typer.Option(
            help="Keys that open the engines' ports, one a line.",
            show_default="one made for this run, the gateway's alone",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Start the engines of every pool and a gateway on this machine. Ctrl-C stops everything.

    A change of the files is taken over within a second, or refused as a whole. Engines that run here stay as they are.
    """
    from proserve_cli.engine_launch import START_LIMIT_S, LaunchError, engine_specs
    from proserve_cli.local_engines import EngineStartError
    from proserve_cli.resource_files import load_resources, read_resources
    from proserve_cli.up_run import Addresses, UpError, UpRun
    from proserve_core.access_keys import AccessKeysError

    check_output_file("--record", record)
    with needs_extra("gateway"):
        from proserve_gateway.configuration.files import ResourceFiles
        from proserve_gateway.server import run_in_loop

    addresses = Addresses(
        http=parse_address(http, option="--http"),
        grpc=parse_address(grpc, option="--grpc"),
        admin=parse_address(admin, option="--admin"),
    )
    source = ResourceFiles(files, load=lambda: (_same_engines(load_resources(files), resources), run.targets))
    resources = read_resources(files)
    logs = Path(tempfile.mkdtemp(prefix="proserve-up-"))
    keys = engine_key_file.resolve() if engine_key_file is not None else _new_key(logs / "engine.key")
    try:
        specs = [spec for pool in resources.engine_pools for spec in engine_specs(pool, engine, key_file=keys)]
    except (LaunchError, AccessKeysError) as error:
        shutil.rmtree(logs)
        raise wrong_usage(error) from error
    run = UpRun(
        source=source,
        resources=resources,
        specs=specs,
        addresses=addresses,
        engine_keys=keys,
        start_limit_s=START_LIMIT_S[engine],
        logs=logs,
        record=record,
    )
    try:
        run_in_loop(run.main())
    except (EngineStartError, UpError) as error:
        raise failed(error) from error
    shutil.rmtree(logs, ignore_errors=True)


def _new_key(file: Path) -> Path:
    """A file with a key of this run's engines, for nobody else to read."""
    file.touch(mode=0o600)
    file.write_text(secrets.token_hex(24))
    return file


def _same_engines(changed: "Resources", running: "Resources") -> "Resources":
    """`changed`; ValueError if it wants other engines on this machine than those that run."""
    wanted, there = _local_pools(changed), _local_pools(running)
    differ = sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))
    if differ:
        raise ValueError(
            f"EnginePool {', '.join(differ)}: engines that run on this machine can't be added, removed or changed: "
            "end `proserve up` and start it again"
        )
    return changed


def _local_pools(resources: "Resources") -> "dict[str, EnginePool]":
    """Pools whose engines are started here, by name, without what only the gateway reads."""
    return {
        f"{pool.namespace}/{pool.name}": msgspec.structs.replace(pool, routing_policy="")
        for pool in resources.engine_pools
        if not pool.endpoints
    }
