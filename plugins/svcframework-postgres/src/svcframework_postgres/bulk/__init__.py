"""Many rows at once: COPY in and out, and streams."""
