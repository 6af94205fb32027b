"""Advice: what is wrong with statements and indexes, and what helps. Nothing changes unless told to."""
