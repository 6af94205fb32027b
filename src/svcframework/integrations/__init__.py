"""Glue between a host and a framework; each in a module of its own, the only one that imports that framework."""
