"""Numbers and statements as people read them, on one line."""

from __future__ import annotations

_LONGEST = 100  # characters of a text among numbers


def shown(value: float | str) -> str:
    """A number with its thousands apart, a text as one line."""
    if isinstance(value, str):
        return one_line(value, _LONGEST)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def one_line(text: str, most: int) -> str:
    """A text without line breaks and control characters, cut to `most` characters."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return flat if len(flat) <= most else f"{flat[: most - 1]}…"
