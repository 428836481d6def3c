"""The OpenAPI document of the data port, made from its routes: served at `/openapi.json` and kept in docs/.

Tests hold the gateway to it: what it says is accepted is accepted, what it says is refused is refused, and nothing is
answered that is not in it.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from proserve_gateway.configuration.catalog_terms import CLASS_HEADERS, LONGEST_TARGET_MS, TPOT_HEADERS, TTFT_HEADERS
from proserve_gateway.http.openapi_schemas import ERROR, Schema, request_name, schemas
from proserve_gateway.http.routes import MODELS, OPENAPI, ROUTES
from proserve_gateway.requests.body import BodyKind

ERRORS: Mapping[int, str] = {
    400: "The request is wrong: malformed JSON, a missing field, a wrong type or value, a header that can't be used.",
    401: "No API key, or one that nobody has.",
    404: "The model does not exist or the tenant may not use it.",
    405: "The route takes another method.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    429: "A quota is used up, or the gateway sheds load of this class.",
    431: "The headers are too large.",
    500: "A fault of the gateway.",
    502: "The engine failed.",
    503: "No engine can take the request now.",
    504: "The engine took too long.",
}
"""What a status means, whatever the route."""
_OF_ALL = (400, 401, 405, 431, 500)
_OF_MODELS = (404,)
_OF_ENGINES = (404, 408, 413, 429, 502, 503, 504)
_RETRY = frozenset({429, 503})

_STREAMED = frozenset({BodyKind.CHAT, BodyKind.COMPLETION, BodyKind.RESPONSES})
_SUMMARIES: Mapping[BodyKind, str] = {
    BodyKind.CHAT: "Answer a conversation",
    BodyKind.COMPLETION: "Continue a text",
    BodyKind.RESPONSES: "Answer with the Responses API, if the model's engines have it",
    BodyKind.OTHER: "Passed through to an engine of the model",
}


@lru_cache(maxsize=1)
def openapi_json() -> bytes:
    """The document as it is served."""
    return msgspec.json.encode(openapi())


def openapi() -> Schema:
    """The document."""
    paths: Schema = {path: {"post": _post(path, kind)} for path, kind in ROUTES.items()}
    paths[MODELS] = {"get": _get("listModels", "Models that the key's tenant may use", "Models")}
    one = _get("getModel", "One model", "Model", _OF_MODELS)
    one["parameters"].append({"name": "model", "in": "path", "required": True, "schema": {"type": "string"}})
    paths[f"{MODELS}/{{model}}"] = {"get": one}
    paths[OPENAPI] = {
        "get": {
            "operationId": "getOpenapi",
            "summary": "This document",
            "security": [],
            "responses": {"200": _json("The document.", {"type": "object"}), **_errors((400, 405, 431))},
        }
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ProServe gateway",
            "version": "1",
            "description": "OpenAI's HTTP API in front of engines that serve requests of different importance. "
            "Schemas of requests say what the gateway checks; everything else is the engine's to judge.",
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"apiKey": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "apiKey": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Decides the tenant. Not needed where the configuration has an anonymous tenant.",
                }
            },
            "schemas": schemas(),
            "headers": _HEADERS,
            "parameters": {name: _parameter(name, meaning) for name, meaning in _PARAMETERS.items()},
            "responses": _error_responses(),
        },
    }


_HEADERS: Schema = {
    "requestId": {
        "description": "The gateway's own id of the request, in logs, metrics and `proserve explain`.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9a-f]{24}$"},
    },
    "retryAfter": {
        "description": "Seconds after which another try makes sense.",
        "schema": {"type": "string", "pattern": "^[1-9][0-9]*$"},
    },
}


_REQUEST_ID = "x-request-id"
_PARAMETERS: Mapping[str, str] = {
    **dict.fromkeys(CLASS_HEADERS, "Another class; a heavier one than the tenant's maximum becomes that maximum."),
    **dict.fromkeys(TTFT_HEADERS, "A looser target for the first token, in milliseconds."),
    **dict.fromkeys(TPOT_HEADERS, "A looser target for each further token, in milliseconds."),
    _REQUEST_ID: "Echoed if it is printable ASCII of at most 128 characters. Never used as an id here.",
}
"""Headers that a client may send."""


def _parameter(name: str, meaning: str) -> Schema:
    schema: Schema = {"type": "string"}
    if name in (*TTFT_HEADERS, *TPOT_HEADERS):
        schema = {"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST_TARGET_MS}
    return {"name": name, "in": "header", "required": False, "description": meaning, "schema": schema}


def _post(path: str, kind: BodyKind) -> Schema:
    reply = _json("The answer.", _reference("schemas", "Reply"))
    if kind in _STREAMED:
        reply["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    return {
        "operationId": path.strip("/").replace("/", "_").replace("v1_", ""),
        "summary": _SUMMARIES[kind],
        "parameters": [_reference("parameters", name) for name in _PARAMETERS],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _reference("schemas", request_name(kind))}},
        },
        "responses": {"200": reply, **_errors((*_OF_ALL, *_OF_ENGINES))},
    }


def _get(name: str, summary: str, schema: str, more: tuple[int, ...] = ()) -> Schema:
    return {
        "operationId": name,
        "summary": summary,
        "parameters": [_reference("parameters", _REQUEST_ID)],
        "responses": {
            "200": _json("As OpenAI has it.", _reference("schemas", schema)),
            **_errors((*_OF_ALL, *more)),
        },
    }


def _json(description: str, schema: Schema) -> Schema:
    return {
        "description": description,
        "headers": {"x-proserve-request-id": _reference("headers", "requestId")},
        "content": {"application/json": {"schema": schema}},
    }


def _errors(statuses: tuple[int, ...]) -> Schema:
    return {str(status): _reference("responses", str(status)) for status in sorted(statuses)}


def _error_responses() -> Schema:
    responses: dict[str, Any] = {}
    for status, meaning in ERRORS.items():
        responses[str(status)] = response = _json(meaning, ERROR)
        if status in _RETRY:
            response["headers"]["retry-after"] = _reference("headers", "retryAfter")
    return responses


def _reference(kind: str, name: str) -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}
