"""The gRPC data port: `proserve.v1.Inference`, the standard health and reflection services."""
