"""`proserve emulate`: one emulated engine."""

from pathlib import Path
from typing import Annotated

import typer

from proserve_cli.engine_tls_options import CertOption, KeyOption, tls_pair
from proserve_cli.failures import failed, needs_extra, wrong_usage


def emulate(
    *,
    calibration: Annotated[str, typer.Option(help="Whose step times to emulate, e.g. h100-llama-3.1-8b.")],
    policy: Annotated[str, typer.Option(help="Batching policy, e.g. fcfs or recoverable-gain.")],
    port: Annotated[int, typer.Option(help="Port for everything it serves; 0: any.", min=0, max=65535)] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    model: Annotated[
        str | None, typer.Option(help="Name of the served model.", show_default="the calibration's")
    ] = None,
    kv_blocks: Annotated[int | None, typer.Option(help="KV blocks.", show_default="as calibrated", min=1)] = None,
    max_sequences: Annotated[
        int | None, typer.Option(help="Requests resident at a time.", show_default="as calibrated", min=1)
    ] = None,
    kv_offload: Annotated[
        str | None,
        typer.Option(
            help="Keep KV blocks of preempted requests in host memory: JSON, see docs/blocks.md.", metavar="JSON"
        ),
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="Answer only who knows a key of this file, one a line.", metavar="FILE")
    ] = None,
    tls_cert: CertOption = None,
    tls_key: KeyOption = None,
    speed: Annotated[float, typer.Option(help="How many times as fast as calibrated the engine is.")] = 1.0,
) -> None:
    """Serve an emulated engine: OpenAI HTTP and /capacity on one port, with a calibration's timing and no model."""
    with needs_extra("emulator"):
        from proserve_engine.emulator.server import EmulatorOptions, build_replica, run_emulator

    from proserve_core.access_keys import AccessKeysError
    from proserve_core.blocks.settings import kv_offload as read_kv_offload
    from proserve_engine.tls import TlsError

    try:
        options = EmulatorOptions(
            calibration=calibration, policy=policy, host=host, port=port, model=model, kv_blocks=kv_blocks,
            max_sequences=max_sequences, speed=speed,
            kv_offload=None if kv_offload is None else read_kv_offload(kv_offload),
            key_file=None if key_file is None else str(key_file), tls=tls_pair(tls_cert, tls_key),
        )  # fmt: skip
        replica = build_replica(options)
    except KeyError as error:
        raise wrong_usage(error.args[0]) from error
    except ValueError as error:
        raise wrong_usage(error) from error
    try:
        code = run_emulator(replica, options)
    except OSError as error:
        raise failed(f"cannot serve on {host}:{port}: {error}") from error
    except AccessKeysError as error:
        raise wrong_usage(f"--key-file {error}") from error
    except TlsError as error:
        raise wrong_usage(f"--tls-cert, --tls-key: {error}") from error
    raise typer.Exit(code)
