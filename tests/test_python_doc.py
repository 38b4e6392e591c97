"""Every block of docs/python.md and every cell of docs/first_hour.ipynb runs as written."""

import ast
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from tiny_models import write_data, write_model

import sdpn_k2
from sdpn_k2.cli import cli
from sdpn_k2.kaldi.formats.tables import read_table

DOCS = Path(__file__).resolve().parents[1] / "docs"


def run(line):
    if not line.startswith("sdpn-k2"):
        subprocess.run(["bash", "-e", "-c", line], check=True)
        return
    done = CliRunner().invoke(cli, line.split()[1:])
    assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception}"


@pytest.fixture(scope="module")
def demo(speech, golden, tmp_path_factory):
    """An experiment of a random model with Kaldi's back end, and what stages 4, 6 and 7 of the recipe leave."""
    folder = tmp_path_factory.mktemp("demo")
    exp = folder / "exp" / "demo"
    (exp / "backend").mkdir(parents=True)
    for name in ("mean.vec", "transform.mat", "plda"):
        shutil.copy(golden / name, exp / "backend")
    write_model(exp / "final.pt", embedding_dim=48)
    data = write_data(folder / "data" / "demo" / "test", speech)
    (folder / "data" / "demo" / "audio").symlink_to(speech)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, (_, wave) in zip("abc", itertools.islice(read_table(f"scp:{data}/wav.scp", "wave"), 3)):
            soundfile.write(f"{name}.wav", wave.samples[0].astype(np.int16), wave.rate, subtype="PCM_16")
        run("sdpn-k2 extract --device cpu exp/demo/final.pt data/demo/test exp/demo/xvectors_test")
        (exp / "scores" / "test").mkdir(parents=True)
        tables = "--enroll exp/demo/xvectors_test/xvector.scp --trials data/demo/test/trials"
        for scoring in ("cosine", "cosine_mean", "plda"):
            run(f"sdpn-k2 score {tables} --backend exp/demo --scoring {scoring} exp/demo/scores/test/trials.{scoring}")
        run("sdpn-k2 results data/demo exp/demo")
    return folder


@pytest.fixture
def workplace(demo, tmp_path, monkeypatch):
    for path in demo.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)


def test_every_block_of_the_page_runs(workplace, capsys):
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 11 and text.count("```") == 2 * len(blocks)
    for language, block in blocks:
        if language == "python":
            exec(compile(block, "docs/python.md", "exec"), {})
        else:
            run(block)
    out = capsys.readouterr().out
    assert "missing.wav: no such file" in out and re.search(r"EER \d+\.\d\d %", out)
    assert re.search(r"^(same speaker|different speakers)\nscore .*\(plda, exp/demo/backend\)\nthreshold ", out, re.M)
    assert re.search(r"^(alice|bob|unknown)\nscore .*\nthreshold .*\nbest of 2 ", out, re.M)
    assert re.search(r"^c.wav (alice|bob|None) \[\('", out, re.M)


def test_the_notebook_runs(workplace, capsys):
    notebook = json.loads((DOCS / "first_hour.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4 and all({"id", "metadata", "source"} <= cell.keys() for cell in notebook["cells"])
    names = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    assert re.search(r"EER \d+\.\d\d %", capsys.readouterr().out)
    used = {
        node.attr
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
        for node in ast.walk(ast.parse("".join(cell["source"])))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sdpn_k2"
    }
    assert used <= set(sdpn_k2.__all__)
