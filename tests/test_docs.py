"""Every Python block of the documentation runs, page by page and in order, and says what it claims."""

from __future__ import annotations

import ast
import inspect
import sys
import types
from pathlib import Path

import anyio
import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, SkipParser

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("plugins/*/README.md")])


class PythonBlocks(CodeBlockParser):
    """Runs each block as a part of one module per page; a block may use `await` and `async with` at its top level."""

    language = "python"

    def evaluate(self, example: Example) -> None:
        """Run one block, with the page's own file name and line numbers in tracebacks."""
        module = example.namespace["module"]
        source = "\n" * (example.line + example.parsed.line_offset) + str(example.parsed)
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(source, example.path, "exec", flags=flags, dont_inherit=True)
        if code.co_flags & inspect.CO_COROUTINE:
            anyio.run(eval, code, module.__dict__)
        else:
            exec(code, module.__dict__)


@pytest.fixture
def page_module(request: pytest.FixtureRequest):
    """Return an importable module, so that type hints and pydantic models of a page resolve as in a user's file."""
    module = types.ModuleType("docs_page")
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_runs(page: Path, page_module: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run one after the other in one module, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    document = Sybil(parsers=[PythonBlocks(), SkipParser()], path=str(page.parent)).parse(page)
    document.namespace["module"] = page_module
    for example in document.examples():
        example.evaluate()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_block_escapes_the_tests(page: Path) -> None:
    """Python is spelled `python` in the opening of a block, and nothing is skipped without a reason."""
    text = page.read_text(encoding="utf-8")
    for spelling in ("```py\n", "```python3", "```Python", "``` python", "~~~python", "```pycon"):
        assert spelling not in text
    for line in text.splitlines():
        if "<!-- skip" in line or "<!--- skip" in line:
            assert '"' in line, f"say why: {line}"
