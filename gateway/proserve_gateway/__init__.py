"""The gateway: HTTP and gRPC in front of a fleet of engines, routing and gain accounting."""
