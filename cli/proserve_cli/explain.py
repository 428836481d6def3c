"""`proserve explain`: why a request ran, waited or lost its blocks, as the engines remember it."""

import asyncio
from enum import StrEnum
from typing import Annotated
from urllib.parse import quote

import msgspec
import typer

from proserve_cli.addresses import parse_address
from proserve_cli.failures import failed, wrong_usage
from proserve_cli.http_get import GetError, get
from proserve_cli.up import ADMIN

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


class _Error(msgspec.Struct):
    message: str


class _ErrorReply(msgspec.Struct):
    error: _Error


def explain(
    *,
    request_id: Annotated[
        str,
        typer.Argument(help="As in the reply's x-proserve-request-id, or the engine's own id.", metavar="REQUEST_ID"),
    ],
    engine: Annotated[
        list[str] | None, typer.Option(help="Where an engine serves /capacity; may be repeated.", metavar="HOST:PORT")
    ] = None,
    admin: Annotated[
        str, typer.Option(help="Gateway to ask for its engines, where no --engine is given.", metavar="HOST:PORT")
    ] = ADMIN,
    output: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.TEXT,
) -> None:
    """Why a request ran, waited or lost its blocks. Engines keep the decisions about some thousand recent requests."""
    from proserve_core.batching.explain.reply import ExplainReply, RequestDecisions

    engines = {text: f"http://{parse_address(text)}" for text in engine or ()} or asyncio.run(_engines_of(admin))
    found: dict[str, list[RequestDecisions]] = {}
    problems: list[str] = []
    for name, reply in zip(engines, asyncio.run(_ask_all(list(engines.values()), request_id)), strict=True):
        match reply:
            case GetError():
                problems.append(f"{name}: {reply}")
            case (200, body):
                found[name] = msgspec.json.decode(body, type=ExplainReply).requests
            case (_, body):
                problems.append(f"{name}: {_message(body)}")
    if not found:
        raise failed("\n  ".join([f"no engine explains request {request_id!r}:", *problems]))
    if output is Format.JSON:
        typer.echo(msgspec.json.encode([{"engine": name, "requests": each} for name, each in found.items()]))
        return
    for name, requests in found.items():
        for request in requests:
            typer.echo(f"{request.id} on {name}")
            for decision in request.decisions:
                typer.echo(f"  {decision.age_s:8.3f} s  {decision.sentence()}")


async def _engines_of(admin: str) -> dict[str, str]:
    """Capacity addresses of a gateway's engines, by name."""
    url = f"http://{parse_address(admin)}/status"
    try:
        status, body = await get(url, timeout_s=TIMEOUT_S)
        if status != 200:
            raise GetError(f"{url}: status {status}")
        engines = msgspec.json.decode(body, type=_Status).engines
    except (GetError, msgspec.MsgspecError) as error:
        raise failed(
            f"the gateway does not say where its engines are ({error}): name them with --engine HOST:PORT"
        ) from error
    known = {each.name: each.capacity_url for each in engines if each.capacity_url}
    if not known:
        raise wrong_usage(
            f"none of the gateway's {len(engines)} engines has a capacity server: only such engines explain"
        )
    return known


async def _ask_all(roots: list[str], request_id: str) -> list[tuple[int, bytes] | GetError]:
    async def ask(root: str) -> tuple[int, bytes] | GetError:
        try:
            return await get(f"{root}/explain/{quote(request_id, safe='')}", timeout_s=TIMEOUT_S)
        except GetError as error:
            return error

    return list(await asyncio.gather(*map(ask, roots)))


def _message(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_ErrorReply).error.message
    except msgspec.MsgspecError:
        return f"not an engine of ProServe, it replied {body[:100]!r}"
