"""`proserve operator`: the in-cluster controller."""

from pathlib import Path
from typing import Annotated

import typer

from proserve_cli.addresses import parse_address
from proserve_cli.failures import failed, needs_extra, wrong_usage
from proserve_cli.logs import LogFormat, LogFormatOption, use_log_format

ADMIN = "127.0.0.1:9091"
LEASE = "proserve-operator"


def operator(
    *,
    namespace: Annotated[
        list[str] | None,
        typer.Option("--namespace", "-n", help="Look after this namespace only; may be given several times."),
    ] = None,
    engine_image: Annotated[str, typer.Option(help="Image of engines whose pool names none.")] = "proserve-engine",
    emulator_image: Annotated[
        str, typer.Option(help="Image of emulated engines whose pool names none.")
    ] = "proserve-gateway",
    gateway_admin: Annotated[
        str | None,
        typer.Option(help="Headless Service of the gateways' admin ports: where gain is reported.", metavar="URL"),
    ] = None,
    gateway_admin_key_file: Annotated[Path | None, typer.Option(help="File with the key of those ports.")] = None,
    gateway_labels: Annotated[
        str, typer.Option(help="Labels of gateway pods: only they may reach engines.", metavar="KEY=VALUE,...")
    ] = "",
    gateway_namespace: Annotated[
        str | None, typer.Option(help="Namespace of those pods.", show_default="the pool's")
    ] = None,
    scraper_namespace: Annotated[str | None, typer.Option(help="Pods there may read metrics of engines.")] = None,
    monitors: Annotated[
        bool, typer.Option(help="Engines get ServiceMonitors, where the cluster has that kind.")
    ] = True,
    monitor_labels: Annotated[
        str, typer.Option(help="Labels of engines' ServiceMonitors.", metavar="KEY=VALUE,...")
    ] = "",
    monitor_interval: Annotated[
        str | None,
        typer.Option(
            help="Between two readings of engines' metrics, such as 15s.",
            metavar="TIME",
            show_default="Prometheus' own",
        ),
    ] = None,
    max_concurrent_rollouts: Annotated[
        int,
        typer.Option(
            min=1, help="Pools that roll at the same time because of a new version or option of the operator."
        ),
    ] = 5,
    lease_name: Annotated[str, typer.Option(help="Name of the Lease that says which replica acts.")] = LEASE,
    lease_namespace: Annotated[
        str | None, typer.Option(help="Namespace of the Lease.", show_default="this pod's")
    ] = None,
    admin: Annotated[str, typer.Option(help="Address of liveness and metrics.", metavar="HOST:PORT")] = ADMIN,
    log_format: LogFormatOption = LogFormat.TEXT,
) -> None:
    """Keep engines of every EnginePool running and statuses current. Needs a cluster: in a pod, or with KUBECONFIG."""
    import asyncio

    use_log_format(log_format)
    address = parse_address(admin, option="--admin")
    with needs_extra("operator"):
        from proserve_operator.kube_client import KubeError
        from proserve_operator.leader import LeadershipLostError
        from proserve_operator.operator_run import KindsChangedError
        from proserve_operator.server import own_namespace, serve
        from proserve_operator.settings import OperatorSettings, SettingsError, parse_interval, parse_labels

    try:
        labels = parse_labels("--gateway-labels", gateway_labels) if gateway_labels else {}
        of_monitors = parse_labels("--monitor-labels", monitor_labels) if monitor_labels else {}
        interval = None if monitor_interval is None else parse_interval("--monitor-interval", monitor_interval)
    except SettingsError as error:
        raise wrong_usage(error) from error
    settings = OperatorSettings(
        namespaces=tuple(namespace or ()),
        engine_image=engine_image,
        emulator_image=emulator_image,
        gateway_admin=gateway_admin,
        gateway_admin_key_file=gateway_admin_key_file,
        gateway_labels=labels,
        gateway_namespace=gateway_namespace,
        scraper_namespace=scraper_namespace,
        monitors=monitors,
        monitor_labels=of_monitors,
        monitor_interval=interval,
        max_concurrent_rollouts=max_concurrent_rollouts,
        lease_name=lease_name,
        lease_namespace=lease_namespace or own_namespace(),
    )
    try:
        asyncio.run(serve(settings, host=address.host, port=address.port))
    except (KubeError, LeadershipLostError, KindsChangedError) as error:
        raise failed(error) from error
    except OSError as error:
        raise failed(f"the operator on {admin}: {error}") from error
