"""`proserve status`: whether a gateway can serve, its engines, and what each class gets."""

from typing import Annotated

import typer

from proserve_cli.admin_client import AdminClient, AdminKeyOption, AdminOption, Format
from proserve_cli.up import ADMIN
from proserve_cli.watching import WatchOption, show


def status(
    *,
    admin: AdminOption = ADMIN,
    admin_key_file: AdminKeyOption = None,
    watch: WatchOption = False,
    output: Annotated[Format, typer.Option("--format", help="What goes to stdout.")] = Format.TABLE,
) -> None:
    """The state of a gateway: ready or why not, engines, gain per class."""
    from proserve_cli.gateway_view import GatewayReply, gateway_table

    show(AdminClient(admin, admin_key_file), "/status", GatewayReply, gateway_table, output=output, watch=watch)
