"""`proserve.v1.Inference`: its .proto and what protoc makes of it (`python scripts/generate_grpc.py`)."""
