"""`proserve explain`: what became of a request and why, by the gateway that routed it and the engines that had it."""

import asyncio
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, NamedTuple
from urllib.parse import quote

import msgspec
import typer

from proserve_cli.addresses import parse_address
from proserve_cli.admin_client import AdminClient, AdminError, AdminKeyOption, AdminOption, NotFoundError, error_message
from proserve_cli.failures import failed
from proserve_cli.http_get import GetError, get
from proserve_cli.up import ADMIN

if TYPE_CHECKING:
    from proserve_core.batching.explain.reply import RequestDecisions
    from proserve_core.request_record import RequestRecord

TIMEOUT_S = 5.0


class Format(StrEnum):
    TEXT = "text"
    JSON = "json"


class _Engine(msgspec.Struct):
    """The part of a gateway's `/status` that is needed here."""

    name: str
    capacity_url: str | None = None


class _Status(msgspec.Struct):
    engines: list[_Engine]


class _Found(NamedTuple):
    """What is known of the request."""

    record: "RequestRecord | None"
    engines: "dict[str, list[RequestDecisions]]"
    problems: list[str]
    """Why others know nothing of it."""


def explain(
    *,
    request_id: Annotated[
        str,
        typer.Argument(help="As in the reply's x-proserve-request-id, or the engine's own id.", metavar="REQUEST_ID"),
    ],
    engine: Annotated[
        list[str] | None,
        typer.Option(
            help="Ask only this engine, where it serves /capacity; may be repeated. No gateway is asked then.",
            metavar="HOST:PORT",
        ),
    ] = None,
    engine_key: Annotated[
        str | None,
        typer.Option(
            envvar="PROSERVE_ENGINE_KEY", help="Key of the engines named with --engine, if any.", show_default=False
        ),
    ] = None,
    admin: AdminOption = ADMIN,
    admin_key_file: AdminKeyOption = None,
    output: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.TEXT,
) -> None:
    """What became of a request and why: engines weighed, predictions against what happened, gain lost; and what each
    engine decided about it. Gateways and engines remember some thousand recent requests."""
    from proserve_cli.request_story import story

    if engine:
        addresses = {text: f"http://{parse_address(text, option='--engine')}" for text in engine}
        found = asyncio.run(_ask_engines(addresses, request_id, engine_key))
    else:
        try:
            found = asyncio.run(_ask_gateway(AdminClient(admin, admin_key_file), request_id))
        except AdminError as error:
            raise failed(f"{error} (or name engines with --engine HOST:PORT)") from error
    if found.record is None and not found.engines:
        raise failed("\n  ".join([f"nobody explains request {request_id!r}:", *found.problems]))
    if output is Format.JSON:
        engines = [{"engine": name, "requests": each} for name, each in found.engines.items()]
        typer.echo(msgspec.json.encode({"request": found.record, "engines": engines}))
        return
    for line in story(found.record) if found.record is not None else ():
        typer.echo(line)
    for name, requests in found.engines.items():
        for request in requests:
            typer.echo(f"{request.id} on {name}")
            for decision in request.decisions:
                typer.echo(f"  {decision.age_s:8.3f} s  {decision.sentence()}")


async def _ask_gateway(client: AdminClient, request_id: str) -> _Found:
    """The gateway's record, and the decisions of the engines that it names; of all engines without a record."""
    from proserve_core.batching.explain.reply import ExplainReply
    from proserve_core.request_record import RequestRecord

    record: RequestRecord | None = None
    explained: dict[str, list[RequestDecisions]] = {}
    problems = []
    try:
        record = await client.ask(f"/decisions/{quote(request_id, safe='')}", RequestRecord)
    except NotFoundError as error:
        problems.append(f"gateway: {error}")
    engines = (await client.ask("/status", _Status)).engines
    served = None if record is None else {attempt.engine for attempt in record.attempts}
    asked = [each.name for each in engines if each.capacity_url and (served is None or each.name in served)]
    if not asked and served is None:
        problems.append(
            f"none of the gateway's {len(engines)} engines has a capacity server: only such engines explain"
        )
    for name in asked:
        # Through the gateway: it gets to engines that we don't, and knows their key.
        path = f"/engine-decisions/{quote(request_id, safe='')}?engine={quote(name, safe='')}"
        try:
            explained[name] = (await client.ask(path, ExplainReply)).requests
        except AdminError as error:
            problems.append(f"{name}: {error}")
    return _Found(record, explained, problems)


async def _ask_engines(addresses: dict[str, str], request_id: str, key: str | None) -> _Found:
    """What engines say; by their names."""
    from proserve_core.batching.explain.reply import ExplainReply

    found, problems = {}, []
    for name, reply in zip(addresses, await _ask_all(list(addresses.values()), request_id, key), strict=True):
        match reply:
            case GetError():
                problems.append(f"{name}: {reply}")
            case (200, body):
                found[name] = msgspec.json.decode(body, type=ExplainReply).requests
            case (_, body):
                problems.append(f"{name}: {error_message(body)}")
    return _Found(None, found, problems)


async def _ask_all(roots: list[str], request_id: str, key: str | None) -> list[tuple[int, bytes] | GetError]:
    headers = {"authorization": f"Bearer {key}"} if key else {}

    async def ask(root: str) -> tuple[int, bytes] | GetError:
        try:
            return await get(f"{root}/explain/{quote(request_id, safe='')}", timeout_s=TIMEOUT_S, headers=headers)
        except GetError as error:
            return error

    return list(await asyncio.gather(*map(ask, roots)))
