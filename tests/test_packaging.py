"""The package's description of itself: public API, version, metadata, citation."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import sdpn_k2
from sdpn_k2.installation import FOLDERS

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_every_public_name_exists():
    assert sdpn_k2.__all__ == sorted(sdpn_k2.__all__)
    for name in sdpn_k2.__all__:
        value = getattr(sdpn_k2, name)
        assert name in dir(sdpn_k2)
        assert name == "__version__" or value.__doc__, f"{name} has no docstring"
        assert name == "__version__" or value.__name__ == name
    assert {*sdpn_k2._MODULES, "InputError", "__version__", "load"} == set(sdpn_k2.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        sdpn_k2.no_such_name  # noqa: B018


def test_importing_the_package_is_light():
    code = "import sys, sdpn_k2; sdpn_k2.load; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = {name for name in done.stdout.split() if name.startswith("sdpn_k2")}
    assert modules == {"sdpn_k2", "sdpn_k2.errors"}
    assert not {"click", "numpy", "torch"} & set(done.stdout.split())


def test_the_version_is_in_one_place():
    assert 'dynamic = ["version"]' in PYPROJECT and '{ attr = "sdpn_k2.__version__" }' in PYPROJECT
    assert not re.search(r"^version\s*=\s*\"", PYPROJECT, re.MULTILINE)
    assert "\nversion:" not in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (\S+)", changes, re.MULTILINE)
    assert headings[:2] == ["Unreleased", sdpn_k2.__version__]


def test_the_package_carries_all_its_files():
    patterns = {"py.typed": "py.typed", "reporting/templates/": "templates/*"}
    for path in (ROOT / "sdpn_k2").rglob("*"):
        name = path.relative_to(ROOT / "sdpn_k2").as_posix()
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            declared = [pattern for start, pattern in patterns.items() if name.startswith(start)]
            assert declared and f'"{declared[0]}"' in PYPROJECT, f"{name} would be missing from a wheel"
    assert (ROOT / "sdpn_k2" / "py.typed").is_file()


def test_every_folder_of_scripts_is_packed():
    """setup.py, MANIFEST.in and sdpn_k2.installation name the same folders; test_wheel.py looks into the wheel."""
    setup = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    values = {node.targets[0].id: node.value for node in setup.body if isinstance(node, ast.Assign)}
    folders, for_checkouts = (set(ast.literal_eval(values[name])) for name in ("FOLDERS", "FOR_CHECKOUTS"))
    assert folders == {"egs", *FOLDERS}
    assert all((ROOT / name).is_file() for name in for_checkouts)
    grafted = set(re.findall(r"^graft (\w+)$", (ROOT / "MANIFEST.in").read_text(encoding="utf-8"), re.MULTILINE))
    top = {path.name for path in ROOT.iterdir() if path.is_dir() and (path.name[0] != "." and path.name != "build")}
    with_scripts = {name for name in top if list((ROOT / name).glob("*.sh")) or list((ROOT / name).glob("*/*.sh"))}
    assert with_scripts - {"tests"} <= folders <= grafted


def test_the_citation_agrees_with_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert f'license = "{citation["license"]}"' in PYPROJECT
    assert f'authors = [{{ name = "{citation["authors"][0]["name"]}" }}]' in PYPROJECT
    (paper,) = citation["references"]
    assert f'Paper = "{paper["url"]}"' in PYPROJECT
    assert paper["url"] in (ROOT / "README.md").read_text(encoding="utf-8")


def test_constraints_pin_every_requirement():
    listed = PYPROJECT[PYPROJECT.index("dependencies = [") : PYPROJECT.index("[project.scripts]")]
    required = {name.lower() for name in re.findall(r'"([A-Za-z][\w-]*)(?:\[\w+\])?[\s>=;"]', listed)}
    pinned = {
        line.partition("==")[0].lower()
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line and not line.startswith("#")
    }
    assert len(required) > 20
    assert required - pinned <= {"k2"}  # pinned where it is required
