"""Backends: what carries the messages, and which is chosen."""
