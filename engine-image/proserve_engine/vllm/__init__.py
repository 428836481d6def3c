"""The vLLM plug-in: ProServe's batching policies inside vLLM's own scheduler."""
