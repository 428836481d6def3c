"""Step-latency models: how long an engine step takes, and how to learn it."""

from proserve_core.latency.model import LatencyModel, StepWork

__all__ = ["LatencyModel", "StepWork"]
