"""KV blocks on their way between device and host: what the plans of `proserve_core.blocks` come to in an engine."""
