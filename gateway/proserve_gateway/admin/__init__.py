"""The admin port: metrics, state, the console, and what the operator asks for."""
