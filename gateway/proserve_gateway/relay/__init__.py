"""Streams from engines to clients, and their continuation on another engine when one breaks."""
