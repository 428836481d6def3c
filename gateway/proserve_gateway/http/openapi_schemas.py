"""JSON schemas of the OpenAPI document: of a request exactly what the gateway itself checks, nothing that it passes on.

What a body may hold beside that is the engine's to say, so these schemas allow it.
"""

from typing import Any

from proserve_gateway.requests.body import KEPT_RESPONSES, MOST, MOST_CHOICES, BodyKind

Schema = dict[str, Any]

ERROR = {"$ref": "#/components/schemas/Error"}


def nullable(kind: str, **more: Any) -> Schema:
    return {"type": [kind, "null"], **more}


_COUNT = nullable("integer", minimum=0, maximum=MOST)
_MODEL = {"type": "string", "minLength": 1, "description": "Name of a model, see /v1/models."}
_COMMON: Schema = {
    "model": _MODEL,
    "stream": nullable("boolean", description="Answer with server-sent events as tokens come."),
    "vllm_xargs": nullable("object", description="For the engine; keys that begin with `proserve_` are removed."),
}
_GENERATION: Schema = {
    "max_tokens": _COUNT,
    "max_completion_tokens": _COUNT,
    "n": nullable("integer", minimum=1, maximum=MOST_CHOICES),
    "stream_options": nullable(
        "object",
        properties={"include_usage": nullable("boolean"), "continuous_usage_stats": nullable("boolean")},
    ),
}
_BY_KIND: dict[BodyKind, tuple[Schema, list[str]]] = {
    BodyKind.CHAT: (
        _GENERATION | {"messages": {"type": "array", "description": "OpenAI's messages; the engine checks them."}},
        ["messages"],
    ),
    BodyKind.COMPLETION: (
        _GENERATION | {"prompt": {"type": ["string", "array"], "description": "Text, texts, ids or lists of ids."}},
        ["prompt"],
    ),
    BodyKind.RESPONSES: (
        {
            "input": {"type": ["string", "array"], "description": "Text, or OpenAI's items; the engine checks them."},
            "max_output_tokens": nullable("integer", minimum=1, maximum=MOST),
            **{name: {"enum": [None, False], "description": "No responses are kept here."} for name in KEPT_RESPONSES},
        },
        ["input"],
    ),
    BodyKind.OTHER: ({}, []),
}


def request_schema(kind: BodyKind) -> Schema:
    """Of the bodies of a kind."""
    own, required = _BY_KIND[kind]
    return {"type": "object", "properties": _COMMON | own, "required": ["model", *required]}


def request_name(kind: BodyKind) -> str:
    return {
        BodyKind.CHAT: "ChatCompletionRequest",
        BodyKind.COMPLETION: "CompletionRequest",
        BodyKind.RESPONSES: "ResponseRequest",
        BodyKind.OTHER: "PassedThroughRequest",
    }[kind]


def schemas() -> Schema:
    """All that have a name."""
    model = {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "object": {"const": "model"},
            "created": {"type": "integer"},
            "owned_by": {"type": "string"},
        },
        "required": ["id", "object", "created", "owned_by"],
    }
    error = {
        "type": "object",
        "properties": {
            "message": {"type": "string", "minLength": 1},
            "type": {"type": "string"},
            "param": nullable("string", description="The field that is wrong."),
            "code": {"type": "string", "description": "What programs may rely on; see the list of codes in the docs."},
        },
        "required": ["message", "type", "param", "code"],
    }
    return {
        **{request_name(kind): request_schema(kind) for kind in BodyKind},
        "Reply": {"type": "object", "description": "As the engine sends it."},
        "Model": model,
        "Models": {
            "type": "object",
            "properties": {
                "object": {"const": "list"},
                "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}},
            },
            "required": ["object", "data"],
        },
        "Error": {
            "type": "object",
            "properties": {"error": error},
            "required": ["error"],
        },
    }
