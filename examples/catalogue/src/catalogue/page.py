"""The live page, and what a browser may do with it. It is read once, when this is imported."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files
from typing import Final


def _hashes(page: str, tag: str) -> str:
    """The parts of the page that a browser may run or apply, by their hashes."""
    parts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts]
    return " ".join(f"'sha256-{digest}'" for digest in digests)


PAGE: Final = (files("catalogue") / "live.html").read_text(encoding="utf-8")

HEADERS: Final = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {_hashes(PAGE, 'script')}; style-src {_hashes(PAGE, 'style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
