"""The engine side of ProServe: vLLM plug-in, capacity server, emulator."""
