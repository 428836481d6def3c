"""Why a request ran, waited or lost its blocks: worked out only when somebody asks, from what a plan leaves behind."""

from proserve_core.batching.explain.decision_log import DecisionLog
from proserve_core.batching.explain.explanation import Decision, ExplainedStep, Explanation

__all__ = ["Decision", "DecisionLog", "ExplainedStep", "Explanation"]
