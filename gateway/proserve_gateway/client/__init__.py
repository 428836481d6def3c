"""A typed Python client of `proserve.v1.Inference`; needs grpcio and nothing of the gateway itself."""

from proserve_gateway.client.aio import AsyncInferenceClient
from proserve_gateway.client.blocking import InferenceClient
from proserve_gateway.client.channels import ClientTls
from proserve_gateway.client.errors import InferenceError
from proserve_gateway.client.messages import Message, Objectives, request

__all__ = ["AsyncInferenceClient", "ClientTls", "InferenceClient", "InferenceError", "Message", "Objectives", "request"]
