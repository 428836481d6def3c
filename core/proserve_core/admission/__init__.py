"""Admission: who may send how much, and what a class is promised in overload. Arithmetic only; I/O is the gateway's."""
