"""Benchmarks that need vLLM. Run by the engine environment's interpreter."""
