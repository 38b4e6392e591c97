"""README and the pages of docs/ run as written: their blocks, in order, in one shell, after a demo of seconds."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from three_d_speaker import INTEROP
from tiny_config import TINY

from sdpn_k2.config import config_to_yaml, load_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Indented commands are not run: they need a corpus, a cluster or hours. Their words in capitals stand for yours.
NOT_RUN = re.compile(r"^ {4}(?:\S*=\S* )*((?:bash|sdpn-k2|torchrun|python3?|sid/|steps/)\S* .*)$", re.MULTILINE)
PLACEHOLDER = re.compile(r"\b[A-Z]{2,}[A-Z0-9_]*\b|\.\.\.|…|<\w")
WITHOUT_INPUT = ("bash egs/voxceleb/run.sh", "bash utils/", "python tests/", "python benchmarks/")


def blocks(page):
    """The fenced blocks of a page, as (language, code)."""
    return re.findall(r"^```(sh|python)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run(script, folder):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def checkout(speech, tmp_path_factory):
    """A checkout in which a demo with a tiny model has been run on the synthetic speech of the tests."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("utils", "steps", "sid", "local", "sdpn_k2", "pyproject.toml", "constraints.txt", "docs", "README.md"):
        (folder / name).symlink_to(ROOT / name)
    recipe = folder / "egs" / "voxceleb"
    shutil.copytree(ROOT / "egs" / "voxceleb", recipe, symlinks=True, ignore=shutil.ignore_patterns("data", "exp"))
    (recipe / "conf" / "sdpn_small.yaml").write_text(config_to_yaml(load_config(None, [*TINY, "train.batch_size=8"])))
    (recipe / "data" / "demo").mkdir(parents=True)
    (recipe / "data" / "demo" / "audio").symlink_to(speech)
    shutil.copy(INTEROP / "3dspeaker-sdpn-tiny.pth", recipe / "sdpn.pth")
    corpus = "--corpus audio-dir --audio-root data/demo/audio --data data/demo --exp exp/demo"
    run(f"bash egs/voxceleb/run.sh {corpus} --nj 1 --ngpu 0", folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if "```sh\n" in page.read_text(encoding="utf-8")], ids=str)
def test_every_block_runs_as_written(page, checkout, tmp_path):
    if page.name == "python.md":
        pytest.skip("test_python_doc.py runs it")
    place = tmp_path / "checkout"
    shutil.copytree(checkout, place, symlinks=True)
    script = [] if page.name == "README.md" else ["cd egs/voxceleb", ". ./path.sh"]
    for language, block in blocks(page):
        if ".onnx" in block and torch.__version__ < "2.5":
            continue
        script.append(block if language == "sh" else f"python3 - << 'END_OF_BLOCK'\n{block}END_OF_BLOCK\n")
    said = run("\n".join(script), place)
    recipe = place / "egs" / "voxceleb"
    if page.name in ("README.md", "evaluation.md", "own_recipe.md", "recipes.md"):
        assert re.search(r"^EER % .*quote this one", said, re.MULTILINE)
    if page.name == "README.md":
        trials, scores = (recipe / "data/demo/test/trials").read_text(), (recipe / "exp/mine/scores").read_text()
        assert trials.count("\n") == scores.count("\n") > 0
    if page.name == "recipes.md":
        windows = (recipe / "exp" / "meeting_windows" / "segments").read_text().splitlines()
        labels = (recipe / "exp" / "meeting_windows" / "labels").read_text().splitlines()
        assert [line.split()[0] for line in windows] == sorted(line.split()[0] for line in labels)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_are_run_or_say_what_they_need(page):
    text = page.read_text(encoding="utf-8")
    assert text.count("```") == 2 * len(
        re.findall(r"^```(?:sh|python|mermaid)\n.*?^```$", text, re.MULTILINE | re.DOTALL)
    )
    if page.name in ("commands.md", "results.md", "ablation.md", "scale.md"):
        return  # usages, and how figures were measured
    for command in NOT_RUN.findall(text):
        command = command.partition(" #")[0].strip()
        assert PLACEHOLDER.search(command) or command.startswith(WITHOUT_INPUT), (
            f"run this, or name what is yours: {command}"
        )


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 100
