"""`proserve gateway`: the gateway alone, in front of servers that already run."""

import asyncio
import logging
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from proserve_cli import credential_options as options
from proserve_cli.addresses import parse_address
from proserve_cli.failures import failed, needs_extra, wrong_usage
from proserve_cli.logs import LogFormat, LogFormatOption, say, use_log_format
from proserve_cli.output_files import check_output_file
from proserve_cli.timeouts import FIELDS, parse_grace, parse_timeouts
from proserve_cli.up import ADMIN, GRPC, HTTP, RecordOption

if TYPE_CHECKING:
    from proserve_core.resources import Resources
    from proserve_gateway.configuration.configuration import ConfigurationSource

logger = logging.getLogger(__name__)

OFF = "off"
"""In place of an address: no such port."""


def gateway(
    *,
    files: Annotated[
        list[Path] | None, typer.Option("--file", "-f", help="Resources (YAML); may be given several times.")
    ] = None,
    kubernetes: Annotated[
        bool, typer.Option("--kubernetes", help="Resources and engines of the cluster, instead of files.")
    ] = False,
    namespace: Annotated[
        list[str] | None,
        typer.Option("--namespace", "-n", help="With --kubernetes: this namespace only; may be given several times."),
    ] = None,
    http: Annotated[str, typer.Option(help="Address of the OpenAI HTTP API.", metavar="HOST:PORT")] = HTTP,
    grpc: Annotated[str, typer.Option(help="Address of the gRPC API; `off`: none.", metavar="HOST:PORT|off")] = GRPC,
    admin: Annotated[str, typer.Option(help="Address of metrics, readiness, status.", metavar="HOST:PORT")] = ADMIN,
    quota_store: Annotated[
        str | None,
        typer.Option(
            help="Valkey or Redis server in which several gateways share tenants' quotas, such as "
            "valkey://HOST:6379/0; without it each gateway counts alone.",
            envvar="PROSERVE_QUOTA_STORE",
            metavar="URL",
        ),
    ] = None,
    timeout: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Another time-out, may be given several times; NAME is {', '.join(FIELDS)}, see docs/gateway.md.",
            metavar="NAME=DURATION",
        ),
    ] = None,
    grace: Annotated[
        str, typer.Option(help="How long open requests get to end after the first TERM.", metavar="DURATION")
    ] = "30s",
    tls_cert: options.TlsCert = None,
    tls_key: options.TlsKey = None,
    tls_client_ca: options.TlsClientCa = None,
    engine_tls_ca: options.EngineTlsCa = None,
    engine_tls_cert: options.EngineTlsCert = None,
    engine_tls_key: options.EngineTlsKey = None,
    admin_key_file: options.AdminKeyFile = None,
    engine_key_file: options.EngineKeyFile = None,
    record: RecordOption = None,
    log_format: LogFormatOption = LogFormat.TEXT,
) -> None:
    """Serve the pools of files or of a cluster. TERM or Ctrl-C lets open requests end, a second one does not wait.

    A change of the files is taken over within a second, or refused as a whole; HUP reads them again. In a cluster each
    resource is taken or refused by itself. Renewed certificates and keys are taken over too.
    """
    from proserve_cli.send_hint import listening

    use_log_format(log_format)
    http_address, admin_address = parse_address(http, option="--http"), parse_address(admin, option="--admin")
    grpc_address = None if grpc == OFF else parse_address(grpc, option="--grpc")
    grpc_host = "" if grpc_address is None else grpc_address.host
    timeouts = parse_timeouts(timeout or [])
    drain_s = parse_grace(grace)
    with needs_extra("gateway"):
        from proserve_gateway.server import GatewayConfig, Listen, run_gateway
        from proserve_gateway.upstream.exchange import UpstreamLimits

    check_output_file("--record", record)
    if quota_store is not None:
        with needs_extra("gateway"):
            from proserve_gateway.quotas.store import store_address
        try:
            store_address(quota_store)
        except ValueError as error:
            raise wrong_usage(f"--quota-store: {error}") from error
    if kubernetes == bool(files):
        raise wrong_usage("give either --file or --kubernetes: where the resources come from")
    if namespace and not kubernetes:
        raise wrong_usage("--namespace is about a cluster: give --kubernetes, too, or remove it")
    source, resources = _of_cluster(namespace or []) if kubernetes else _of_files(files or [])
    credentials = options.credential_files(
        tls_cert=tls_cert, tls_key=tls_key, tls_client_ca=tls_client_ca, engine_tls_ca=engine_tls_ca,
        engine_tls_cert=engine_tls_cert, engine_tls_key=engine_tls_key, admin_key_file=admin_key_file,
        engine_key_file=engine_key_file,
    )  # fmt: skip
    if admin_key_file is None and not admin_address.is_loopback:
        logger.warning("whoever reaches the admin port %s may read it: give it a key with --admin-key-file", admin)
    config = GatewayConfig(
        resources=resources,
        http=Listen(http_address.host, http_address.port),
        grpc=None if grpc_address is None else Listen(grpc_address.host, grpc_address.port),
        admin=Listen(admin_address.host, admin_address.port),
        upstream_limits=msgspec.structs.replace(UpstreamLimits(), **timeouts),
        credentials=credentials,
        quota_store=quota_store,
        record=record,
        in_cluster=kubernetes,
        drain_s=drain_s,
    )
    try:
        run_gateway(
            config,
            source=source,
            on_started=lambda started: say(listening(started, grpc_host=grpc_host), log_format),
        )
    except (OSError, ValueError) as error:
        raise failed(f"the gateway on {http}, {grpc}, {admin}: {error}") from error


def _of_cluster(namespaces: list[str]) -> "tuple[ConfigurationSource, Resources]":
    """A source that brings everything; exit code 1 where no cluster is known, whether or not it answers."""
    from proserve_core.resources import Resources

    with needs_extra("operator"):
        from proserve_gateway.configuration.kube_watch import ClusterError, connect
        from proserve_gateway.configuration.kubernetes import KubernetesSource

    async def find_cluster() -> None:
        await (await connect()).close()

    try:
        asyncio.run(find_cluster())
    except ClusterError as error:
        raise failed(error) from error
    return KubernetesSource(namespaces=namespaces), Resources()


def _of_files(files: list[Path]) -> "tuple[ConfigurationSource, Resources]":
    """What the files hold now, and a source of their changes."""
    from proserve_cli.resource_files import load_resources, read_resources
    from proserve_gateway.configuration.files import ResourceFiles

    source = ResourceFiles(
        files, load=lambda: (_with_endpoints(load_resources(files)), ()), reload_signal=signal.SIGHUP
    )
    resources = read_resources(files)
    try:
        return source, _with_endpoints(resources)
    except ValueError as error:
        raise wrong_usage(error) from error


def _with_endpoints(resources: "Resources") -> "Resources":
    """The same; ValueError if a pool names no engines."""
    without = [pool.name for pool in resources.engine_pools if not pool.endpoints]
    if without:
        raise ValueError(
            f"EnginePool {', '.join(without)}: the gateway alone starts no engines; give the pool spec.endpoints, "
            "or start engines and gateway together with `proserve up`"
        )
    return resources
