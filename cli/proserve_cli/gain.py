"""`proserve gain`: how much gain each class gets, and where the rest is lost."""

from typing import Annotated

import typer

from proserve_cli.admin_client import AdminClient, AdminKeyOption, AdminOption, Format
from proserve_cli.up import ADMIN
from proserve_cli.watching import WatchOption, show


def gain(
    *,
    admin: AdminOption = ADMIN,
    admin_key_file: AdminKeyOption = None,
    watch: WatchOption = False,
    output: Annotated[Format, typer.Option("--format", help="What goes to stdout.")] = Format.TABLE,
) -> None:
    """Gain earned per class: over the last minutes, over time, and what the rest was lost to."""
    from proserve_cli.gain_view import gain_table
    from proserve_core.gain_status import GainReply

    show(AdminClient(admin, admin_key_file), "/gain", GainReply, gain_table, output=output, watch=watch)
