"""What the data port serves."""

from collections.abc import Mapping

from proserve_gateway.requests.body import BodyKind

ROUTES: Mapping[str, BodyKind] = {
    "/v1/chat/completions": BodyKind.CHAT,
    "/v1/completions": BodyKind.COMPLETION,
    "/v1/responses": BodyKind.RESPONSES,
    "/v1/embeddings": BodyKind.OTHER,
    "/v1/rerank": BodyKind.OTHER,
    "/v1/score": BodyKind.OTHER,
    "/tokenize": BodyKind.OTHER,
    "/detokenize": BodyKind.OTHER,
}
"""What reaches an engine. A list and not a prefix, because engines also have routes that change them."""
MODELS = "/v1/models"
RESPONSES = "/v1/responses"
OPENAPI = "/openapi.json"
