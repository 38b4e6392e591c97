"""The floors of docs/architecture.md: imports point down, never in a circle, and every file is in the document."""

import ast
import collections
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "sdpn_k2"
DOCUMENT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
# From the bottom up. Each line is one floor, whose members do not import one another.
FLOORS = (
    ("errors", "pcm", "processors", "provenance"),
    ("files", "device", "names"),
    ("config", "installation", "progress"),
    ("kaldi.formats",),
    ("kaldi.features", "kaldi.nnet3"),
    ("kaldi.datadir",),
    ("kaldi.backend",),
    ("kaldi.tools",),
    ("scoring", "signal"),
    ("data",),
    ("models",),
    ("methods",),
    ("inference",),
    ("training",),
    ("reporting",),
    ("experiments",),
    ("cli",),
)
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))
# X.py computes; cli/X.py or kaldi/tools/X.py is its command line.
COMMAND_LINES = (PACKAGE / "cli", PACKAGE / "kaldi" / "tools")


def dotted(path):
    """The name below sdpn_k2: kaldi.formats.io."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(name):
    """The folder, or the module at the top level: kaldi."""
    return name.partition(".")[0]


def floor(name):
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "kaldi" else parts[0]


def imports(path):
    """Names below sdpn_k2 that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("sdpn_k2."):
                name = name[len("sdpn_k2.") :]
                known = {dotted(module) for module in MODULES}
                while name not in known and "." in name:  # a function or class of a module
                    name = name.rpartition(".")[0]
                yield name


@pytest.mark.parametrize("path", MODULES, ids=[dotted(path) or "sdpn_k2" for path in MODULES])
def test_imports_point_down(path):
    own = floor(dotted(path))
    for name in imports(path):
        if dotted(path) in ("", "__main__", "kaldi") or name == "__version__":
            continue
        assert floor(name) in LEVEL, f"{path} imports {name}, which is on no floor"
        assert floor(name) == own or LEVEL[floor(name)] < LEVEL[own], f"{path} imports {name}, which is not below it"


def test_no_import_cycles():
    graph = {dotted(path): set(imports(path)) - {dotted(path)} for path in MODULES}
    while graph:
        free = [name for name, targets in graph.items() if not targets & graph.keys()]
        assert free, f"these modules import each other in a circle: {sorted(graph)}"
        for name in free:
            del graph[name]


def test_module_names_are_unique():
    places = collections.defaultdict(list)
    for path in MODULES:
        if path.name != "__init__.py":
            places[path.stem].append(path.parent)
    for name, folders in places.items():
        computing = [folder for folder in folders if folder not in COMMAND_LINES]
        assert len(computing) <= 1, f"{name}.py is in {folders}"
        assert len(folders) - len(computing) <= 1, f"{name}.py is in {folders}"


def test_document_lists_exactly_the_existing_files():
    written = collections.defaultdict(set)
    folder = None
    for line in DOCUMENT[DOCUMENT.index("## Every file") :].splitlines():
        if line.startswith("### "):
            folder = line.split()[1].strip("/")
        row = re.fullmatch(r"\| `(\w+\.py)` \| (\S.*) \|", line)
        if row:
            assert row[1] not in written[folder], f"{folder}/{row[1]} has two lines"
            written[folder].add(row[1])
    there = collections.defaultdict(set)
    for path in MODULES:
        if path.name != "__init__.py" or path.parent == PACKAGE:
            there[path.parent.relative_to(ROOT).as_posix()].add(path.name)
    assert written == there


def test_diagram_matches_the_imports():
    """Every arrow is an import, and every import between floors follows arrows."""
    imported = collections.defaultdict(set)
    for path in MODULES:
        for name in imports(path):
            imported[room(dotted(path))].add(room(name))
    arrows = collections.defaultdict(set)
    for upper, lower in re.findall(r"^ +(\w+) --> (\w+)$", DOCUMENT, re.MULTILINE):
        assert lower in imported[upper], f"{upper} does not import {lower}"
        arrows[upper].add(lower)

    def below(name):
        return {name}.union(*(below(lower) for lower in arrows[name]))

    rooms = {path.parent.relative_to(PACKAGE).parts[0] for path in MODULES if path.parent != PACKAGE}
    for upper in rooms:
        assert imported[upper] & rooms <= below(upper)
