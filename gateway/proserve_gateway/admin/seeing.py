"""Routes of the admin port about gain and about single requests: `/gain`, `/decisions`, `/decisions/ID`,
`/engine-decisions/ID?engine=NAME`."""

from collections.abc import Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from proserve_core.request_record import RecordsReply, RequestRecord
from proserve_gateway.configuration.catalog import Catalog
from proserve_gateway.errors import ApiError, invalid_request
from proserve_gateway.fleet.engine_decisions import EngineDecisions
from proserve_gateway.seeing.decisions import KEPT, Decisions
from proserve_gateway.seeing.gain_history import KEPT_S, GainHistory
from proserve_gateway.seeing.request_trail import RequestTrail

LISTED = 50
"""Requests in `/decisions` unless another number is asked for."""


def seeing_routes(
    *,
    catalog: Callable[[], Catalog],
    decisions: Decisions,
    history: GainHistory,
    of_engine: EngineDecisions,
) -> list[Route]:
    """`catalog()` is the configuration in force."""

    async def gain(request: Request) -> Response:
        try:
            seconds = _number(request, "seconds", default=KEPT_S, most=KEPT_S)
        except ApiError as error:
            return _refused(error)
        return _json(history.reply(catalog().priority_classes, seconds=seconds))

    async def listed(request: Request) -> Response:
        try:
            count = int(_number(request, "limit", default=LISTED, most=KEPT))
            wanted = _filter(request)
        except ApiError as error:
            return _refused(error)
        return _json(RecordsReply(requests=decisions.latest(count, wanted=wanted)))

    async def one(request: Request) -> Response:
        request_id = request.path_params["id"]
        record = decisions.get(request_id)
        if record is None:
            return _refused(_unknown(request_id, decisions.latest(3)))
        return _json(record)

    async def engines_own(request: Request) -> Response:
        engine, request_id = request.query_params.get("engine", ""), request.path_params["id"]
        try:
            status, body = await of_engine(engine, request_id)
        except ApiError as error:
            return _refused(error)
        return Response(body, status_code=status, media_type="application/json")

    return [
        Route("/gain", gain),
        Route("/decisions", listed),
        Route("/decisions/{id}", one),
        Route("/engine-decisions/{id}", engines_own),
    ]


_FILTERS: dict[str, Callable[[RequestTrail, str], bool]] = {
    "class": lambda trail, value: trail.entry.account.terms.priority_class == value,
    "tenant": lambda trail, value: trail.tenant == value,
    "pool": lambda trail, value: trail.pool == value,
    "cause": lambda trail, value: value in trail.entry.account.lost,
}


def _filter(request: Request) -> Callable[[RequestTrail], bool]:
    asked = {name: value for name, value in request.query_params.items() if name != "limit"}
    for name in asked:
        if name not in _FILTERS:
            raise invalid_request(f"{name} is not known: use limit, {', '.join(_FILTERS)}", param=name)
    return lambda trail: all(_FILTERS[name](trail, value) for name, value in asked.items())


def _number(request: Request, name: str, *, default: float, most: float) -> float:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= most:
        raise invalid_request(f"{name} is {text[:20]!r}: it must be a whole number from 1 to {most:g}", param=name)
    return int(text)


def _unknown(request_id: str, latest: list[RequestRecord]) -> ApiError:
    ids = ", ".join(record.id for record in latest)
    known = f"the latest are {ids}" if ids else "no request was routed here yet"
    return ApiError(
        status=404,
        code="request_not_found",
        error_type="invalid_request_error",
        message=f"nothing is known of request {request_id[:80]!r}: it was refused before it was routed, went through "
        f"another gateway, or was one of more than {KEPT} ago; {known}",
    )


def _json(body: object) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")


def _refused(error: ApiError) -> Response:
    return Response(error.body(), status_code=error.status, media_type="application/json")
