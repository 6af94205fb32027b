"""One module per library; each has `ADAPTERS`."""
