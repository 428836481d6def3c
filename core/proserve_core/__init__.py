"""Pure domain of ProServe: gain, objectives, latency, batching, routing. No I/O, no asyncio, no clock of its own."""
