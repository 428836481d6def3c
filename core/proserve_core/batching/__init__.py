"""Batching policies: what runs in the next engine step."""

from proserve_core.batching.protocol import BatchingPolicy
from proserve_core.batching.state import BatchPlan, EngineLimits, EngineState, PlanEntry, Reason, RequestState

__all__ = ["BatchPlan", "BatchingPolicy", "EngineLimits", "EngineState", "PlanEntry", "Reason", "RequestState"]
