"""The demo: shows in a terminal what the catalogue does when it starts, works, loses its database, and stops.

A presentation, separate from the application: it only subscribes to the host and calls public methods.
"""
