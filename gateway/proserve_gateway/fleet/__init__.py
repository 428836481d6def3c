"""Engines as the gateway sees them: polled capacity, health, leases on them, and the requests that wait for one."""
