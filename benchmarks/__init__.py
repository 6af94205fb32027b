"""Side-by-side comparison of svcframework and its peers: `python -m benchmarks` from the repository's root."""
