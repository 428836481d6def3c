"""Benchmarks: each prints its ratio next to its target."""
