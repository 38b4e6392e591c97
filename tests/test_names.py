"""Names of sets and folders never become commands."""

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from chromium import Browser, find_chromium
from run_recipe import TINY, run

from sdpn_k2.config import Config
from sdpn_k2.data.corpora.audio_dir import prepare_audio_dir
from sdpn_k2.data.corpora.kaldi_dir import prepare_kaldi_dirs
from sdpn_k2.errors import InputError
from sdpn_k2.experiments.ablation import Row
from sdpn_k2.experiments.ablation_table import Column, Figure, Line, Page, Spread, Table
from sdpn_k2.names import check_name
from sdpn_k2.reporting import html_page
from sdpn_k2.reporting.results import Provenance

ROOT = Path(__file__).resolve().parents[1]
BAD = ["te$(touch trap)st", "t two", "x;y", "-x", ".x", "", "a/b", "\xfc", "a'b", "x" * 101, "a\nb", "a\n"]
ODD = "clone's $(touch trap) `touch trap` \xfc"


def write_corpus(root: Path, test: str) -> Path:
    """Write five speakers with two noises each for training and testing, and trials."""
    rng = np.random.default_rng(0)
    for part, speaker, take in itertools.product(("train", test), range(5), range(2)):
        path = root / part / f"s{speaker}" / f"{take}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.uniform(-0.5, 0.5, 5 * 16000), 16000)
    (root / test / "trials").write_text("s0-0 s0-1 target\ns0-0 s1-0 nontarget\n")
    return root


@pytest.mark.parametrize("name", BAD)
def test_bad_names(name):
    with pytest.raises(InputError, match="somewhere"):
        check_name(name, "somewhere")


@pytest.mark.parametrize("name", ["test", "vox1-o", "a.b_C-9", "_x"])
def test_good_names(name):
    assert check_name(name, "somewhere") == name


def test_sets_of_an_audio_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = write_corpus(tmp_path / "audio", "te$(touch trap)st")
    with pytest.raises(InputError, match=r"te\$\(touch trap\)st"):
        prepare_audio_dir(root, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_sets_of_kaldi_directories(tmp_path):
    (tmp_path / "t two").mkdir()
    (tmp_path / "t two" / "trials").write_text("a b target\n")
    with pytest.raises(InputError, match="t two: set: 't two'"):
        prepare_kaldi_dirs(tmp_path / "train", {"t two": tmp_path / "t two"}, tmp_path / "data")


@pytest.mark.parametrize("option", ["--data", "--exp"])
@pytest.mark.parametrize("letter", list(" \t\n'\"*?&;|<>()[]{}$`\\!#~,"))
def test_folders_of_the_recipe(option, letter, tmp_path):
    name = tmp_path / f"a{letter}b"
    result = run(option, name, check=False)
    assert result.returncode == 1 and f"{option}" in result.stderr and not name.exists()


def test_quoted_arguments_pass_through_the_launcher(tmp_path):
    """run.pl gives each word to the command as it was, and runs nothing that a word contains."""
    words = [
        "plain",
        "a b",
        "$(touch trap)",
        "x y $(touch trap) `touch trap` \\",
        "'",
        '"',
        "a 'b",
        'a "b $c',
        "\xfc",
        "*",
        "",
    ]
    words += ["a 'b' \"c\"", "a;b|c&d<e>f", "#x", "~", "\\", "{a,b}"]
    quote = """. "$0/utils/quoting.sh"; quote_words printf '%s\\0' "$@"; """
    script = quote + '"$0/utils/run.pl" log/x.log "${quoted_words[@]}"'
    subprocess.run(["bash", "-euc", script, ROOT, *words], cwd=tmp_path, check=True)
    printed = (tmp_path / "log/x.log").read_text().split("\n#\n", 1)[1].split("# Accounting")[0]
    assert printed.split("\0")[:-1] == words
    assert not (tmp_path / "trap").exists()


HOSTILE = "<script>window.ran=1</script><img src=x onerror='window.ran=1'>\"'&{{ 7*7 }}\u202e\u2066x"


@pytest.fixture
def hostile_page(tmp_path) -> Path:
    """An ablation page whose every name is hostile."""
    row = Row(HOSTILE, HOSTILE, HOSTILE, Config())
    table = Table(HOSTILE, [Column(HOSTILE, 2)], [Line(row, 1, [Spread(1.0, 0.1, 0.5, 2.0)])], 0)
    origin = Provenance(HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, 1, HOSTILE)
    figure = Figure("f.svg", HOSTILE, "<svg></svg>")
    page = Page(HOSTILE, [table], [figure], [HOSTILE], origin, [(HOSTILE, HOSTILE)])
    (tmp_path / "page.html").write_text(html_page.render("ablation.html", **vars(page)), encoding="utf-8")
    return tmp_path / "page.html"


def test_names_in_a_page_are_text(hostile_page):
    text = hostile_page.read_text(encoding="utf-8")
    assert (
        "window.ran=1</script>" not in text
        and "<img" not in text
        and "49" not in text.split("<body>")[1].split("<script>")[0]
    )
    assert "&lt;script&gt;" in text and "\u202e" not in text and "U+202EU+2066x" in text


def test_names_in_a_page_do_nothing_in_a_browser(hostile_page, tmp_path):
    if find_chromium() is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    with Browser(tmp_path / "profile") as browser:
        browser.open(hostile_page)
        assert browser.evaluate("typeof window.ran") == "undefined" and browser.console == []
        assert browser.evaluate("document.querySelector('h1').textContent").startswith("<script>window.ran")
        assert browser.requests == [hostile_page.resolve().as_uri()]


@pytest.mark.slow
def test_a_clone_in_an_odd_folder(tmp_path, monkeypatch):
    """The recipe works, and runs no part of its folder's name."""
    clone = tmp_path / ODD
    for name in ("egs", "local", "sid", "steps", "utils"):
        shutil.copytree(ROOT / name, clone / name, symlinks=True)
    for name in ("sdpn_k2", "pyproject.toml"):
        (clone / name).symlink_to(ROOT / name)
    root = write_corpus(tmp_path / 'audio "folder" $(touch trap)', "test")
    environment = dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", OMP_NUM_THREADS="1")
    command = ["bash", "run.sh", "--nj", "2", "--ngpu", "0", "--corpus", "audio-dir", "--audio-root", root]
    result = subprocess.run(
        [*command, "--config-set", TINY],
        cwd=clone / "egs" / "voxceleb",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    assert (clone / "egs/voxceleb/exp/audio-dir/report.html").is_file()
    assert not list(tmp_path.rglob("trap"))
