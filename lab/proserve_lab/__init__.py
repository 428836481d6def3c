"""Workloads, load client, experiments and reports."""
