"""The custom resources (PriorityClass, Tenant, EnginePool) and the Secrets they name: reading, checking, meaning."""

from proserve_core.resources.documents import Document
from proserve_core.resources.errors import ResourceError, ResourceErrors
from proserve_core.resources.model import Resources, unenforced, without_waiting
from proserve_core.resources.parse import CUSTOM_KINDS, parse_documents, parse_resources
from proserve_core.resources.secrets import Secret
from proserve_core.resources.selection import UnknownClassError, allowed_class, allowed_objectives

__all__ = [
    "CUSTOM_KINDS",
    "Document",
    "ResourceError",
    "ResourceErrors",
    "Resources",
    "Secret",
    "UnknownClassError",
    "allowed_class",
    "allowed_objectives",
    "parse_documents",
    "parse_resources",
    "unenforced",
    "without_waiting",
]
