"""`proserve engine ...`: real engines."""

from pathlib import Path
from typing import Annotated

import typer

from proserve_cli.engine_tls_options import CertOption, KeyOption, tls_pair
from proserve_cli.failures import failed, wrong_usage
from proserve_cli.timeouts import parse_grace
from proserve_core.pools import DEFAULT_BATCHING_POLICY

engine_app = typer.Typer(name="engine", help="Real engines: vLLM with ProServe's scheduler.", no_args_is_help=True)


@engine_app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(
    context: typer.Context,
    *,
    model: Annotated[str, typer.Argument(help="Folder, Hugging Face name, or generated://tiny.", metavar="MODEL")],
    policy: Annotated[
        str, typer.Option(help="Batching policy, e.g. fcfs or recoverable-gain.")
    ] = DEFAULT_BATCHING_POLICY,
    capacity_port: Annotated[int, typer.Option(help="Port of /capacity.", min=1, max=65535)] = 9400,
    capacity_host: Annotated[str, typer.Option(help="Address of /capacity.")] = "127.0.0.1",
    calibration: Annotated[
        str | None, typer.Option(help="Step times to begin with, until the engine has measured its own.")
    ] = None,
    kv_offload: Annotated[
        str | None,
        typer.Option(
            help="Keep KV blocks of preempted requests in host memory: JSON, see docs/blocks.md.", metavar="JSON"
        ),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(help="Both ports answer only who knows a key of this file, one a line.", metavar="FILE"),
    ] = None,
    tls_cert: CertOption = None,
    tls_key: KeyOption = None,
    step_log: Annotated[
        Path | None, typer.Option(help="Append each step to this file: its work, its time and the prediction.")
    ] = None,
) -> None:
    """Serve MODEL with vLLM under a ProServe policy. All other options go to `vllm serve` as they are."""
    from proserve_core.access_keys import AccessKeysError
    from proserve_core.batching.registry import PolicyError
    from proserve_core.blocks.settings import KvOffloadError
    from proserve_core.blocks.settings import kv_offload as read_kv_offload
    from proserve_engine.serve import ServeError, run, serve_command
    from proserve_engine.tiny_model import ModelError
    from proserve_engine.tls import TlsError
    from proserve_engine.vllm.settings import EngineSettings

    settings = EngineSettings(
        policy=policy, calibration=calibration, capacity_host=capacity_host, capacity_port=capacity_port,
        step_log=None if step_log is None else str(step_log.resolve()),
        # Not resolved: a mounted Secret is another file after each change, under the same name.
        key_file=None if key_file is None else str(key_file.absolute()), tls=tls_pair(tls_cert, tls_key),
    )  # fmt: skip
    try:
        command = serve_command(
            model, context.args, settings=settings,
            kv_offload=None if kv_offload is None else read_kv_offload(kv_offload),
        )  # fmt: skip
    except (ServeError, ModelError, PolicyError, KvOffloadError, AccessKeysError, TlsError) as error:
        raise wrong_usage(error) from error
    run(command)


@engine_app.command()
def drain(
    *,
    capacity_port: Annotated[int, typer.Option(help="Port of /capacity.", min=1, max=65535)] = 9400,
    host: Annotated[str, typer.Option(help="Where the engine is.")] = "127.0.0.1",
    grace: Annotated[str, typer.Option(help="How long running requests get to end.", metavar="DURATION")] = "60s",
    key_file: Annotated[Path | None, typer.Option(help="The engine's own; its first key is sent.")] = None,
    tls: Annotated[bool, typer.Option("--tls", help="The engine speaks TLS; here only.")] = False,
) -> None:
    """Tell an engine that it is to go, and wait for its running requests. What `preStop` of its pod runs."""
    from proserve_core.access_keys import AccessKeysError, parse_keys
    from proserve_engine.drain import DrainError
    from proserve_engine.drain import drain as drain_engine

    grace_s = parse_grace(grace)
    if tls and host not in ("127.0.0.1", "localhost"):
        raise wrong_usage(f"--tls checks no certificate, so it is for this machine only: leave --host {host} away")
    try:
        key = None if key_file is None else parse_keys(key_file.read_text())[0]
    except (OSError, UnicodeDecodeError, AccessKeysError) as error:
        raise wrong_usage(f"--key-file: {key_file}: {error}") from error
    try:
        left = drain_engine(f"{'https' if tls else 'http'}://{host}:{capacity_port}", grace_s=grace_s, key=key)
    except DrainError as error:
        raise failed(error) from error
    typer.echo(f"drained; {left} requests are left", err=True)


@engine_app.command("make-model")
def make_model(
    *,
    name: Annotated[str, typer.Argument(help="Which one: tiny or small.")] = "tiny",
    folder: Annotated[
        Path | None, typer.Argument(help="Where to make it (default: the cache that generated://NAME uses).")
    ] = None,
) -> None:
    """Make a small language model with random weights. Needs the engine environment's interpreter."""
    from proserve_engine import tiny_model

    if name not in tiny_model.MODELS:
        raise wrong_usage(f"there is no generated model {name!r}: use {' or '.join(tiny_model.MODELS)}")
    model = tiny_model.MODELS[name]
    try:
        made = tiny_model.make_model(model, folder or tiny_model.cache_folder() / f"{name}-{model.key}")
    except ModuleNotFoundError as error:
        raise wrong_usage(
            f"making a model needs {error.name!r}: run this with the engine environment (`make engine`)"
        ) from error
    typer.echo(made)
