"""Discrete-event simulation of engines and routing in virtual time, on the emulator's own state machine."""
