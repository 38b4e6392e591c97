"""The documentation: what it imports, where it links to, and the examples in docstrings of the public API."""

import ast
import doctest
import importlib
import re
import textwrap
from pathlib import Path

import commands_page
import pytest
import yaml

import sdpn_k2
from sdpn_k2.cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *ROOT.glob("*.md")])
EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "sdpn_k2").rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


def python_blocks(text):
    """Blocks of a page that are Python: marked so, or indented and starting with an import."""
    yield from re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for block in re.findall(r"(?:^(?: {4}.*)?\n)+", text, re.MULTILINE):
        block = textwrap.dedent(block).strip()
        if block.startswith(("import ", "from ")):
            yield block


def names_used(code):
    """Names that code takes from sdpn_k2; a module below the package counts by its full name."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "sdpn_k2":
            for alias in node.names:
                yield alias.name if node.module == "sdpn_k2" else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("sdpn_k2."))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sdpn_k2":
            yield node.attr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_import_only_the_public_api(page):
    for code in python_blocks(page.read_text(encoding="utf-8")):
        assert set(names_used(code)) <= set(sdpn_k2.__all__)


def test_python_blocks_are_found():
    found = [name for page in PAGES for code in python_blocks(page.read_text("utf-8")) for name in names_used(code)]
    assert found.count("load") >= 2 and "segment" in found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_commands_that_exist(page):
    named = set(re.findall(r"\bsdpn-k2 ([a-z][\w-]*)", page.read_text(encoding="utf-8")))
    assert named - set(COMMANDS) <= ({"multi-crop"} if page.name == "CHANGELOG.md" else set())


def test_the_page_of_commands_is_what_help_says():
    assert (DOCS / "commands.md").read_text(encoding="utf-8") == commands_page.page(), "python tests/commands_page.py"


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    nav = re.findall(r"[\w-]+\.md", text[text.index("nav:") : text.index("markdown_extensions:")])
    assert sorted(nav) == sorted(page.name for page in DOCS.glob("*.md"))


def test_the_reference_has_every_public_name():
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    described = re.findall(r"^::: sdpn_k2\.(\w+)$", text, re.MULTILINE)
    assert sorted(described) == sorted(set(sdpn_k2.__all__) - {"__version__"})


def public_modules():
    return {getattr(sdpn_k2, name).__module__ for name in sdpn_k2.__all__ if name != "__version__"}


def test_docstrings_of_the_reference_are_markdown():
    for name in public_modules():
        text = Path(importlib.import_module(name).__file__).read_text(encoding="utf-8")
        assert not re.search(r":(class|data|func|meth|mod):`", text), f"{name}: write ``name``, as the site does"


def test_examples_in_docstrings():
    results = [doctest.testmod(importlib.import_module(name)) for name in EXAMPLES]
    assert not sum(result.failed for result in results)
    assert all(result.attempted for result in results) and len(results) >= 7


def test_the_pre_commit_hooks_are_local():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    hooks = config["repos"][0]["hooks"]
    assert {hook["language"] for hook in hooks} == {"system"}
    assert [hook["id"] for hook in hooks] == ["ruff-check", "ruff-format", "shellcheck", "mypy"]
