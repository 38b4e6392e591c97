"""The wheel and the source distribution: what they hold, and that they work outside the checkout."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version

import pytest
from kaldi_support import ROOT
from run_recipe import TINY

from sdpn_k2.kaldi import tools

FOLDERS = ("diarization", "egs", "local", "sid", "steps", "utils")
FOR_CHECKOUTS = {"utils/run_checks.sh", "utils/run_tests.sh", "utils/run_wheel.sh"}
pytestmark = pytest.mark.skipif(int(version("setuptools").split(".")[0]) < 77, reason="needs setuptools 77 to build")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build and install; return the folder with dist/, direct/ and env/."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs git, for the files of the checkout")
    work = tmp_path_factory.mktemp("wheel")
    environment = dict(os.environ, PATH=f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}")
    done = subprocess.run(
        ["bash", ROOT / "utils" / "run_wheel.sh", "--run-demo", "false", work],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return work


@pytest.fixture
def shell(built, tmp_path):
    """Return a function that runs a line of bash with nothing from the checkout or its environment on PATH."""

    def run(line, folder=tmp_path, check=True, **variables):
        environment = {"PATH": f"{os.defpath}:/usr/bin:/bin", "HOME": str(tmp_path), **variables}
        done = subprocess.run(
            [shutil.which("bash"), "-c", line], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert not check or done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture
def command(built):
    return built / "env" / "bin" / "sdpn-k2"


def contents(folder):
    """Name → (mode, content) of the files in the wheel of a folder."""
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        return {item.filename: (item.external_attr >> 16, wheel.read(item)) for item in wheel.infolist()}


def shared():
    """The tracked files and links that a wheel holds, with their modes."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-s", "--", *FOLDERS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for line in listed.stdout.split("\0")[:-1]:
        mode, name = line.split()[0], line.split("\t")[1]
        if name not in FOR_CHECKOUTS and not (name.startswith("egs/") and mode == "120000"):
            yield name, mode


def test_the_wheel_of_the_source_distribution_is_that_of_the_checkout(built):
    assert contents(built / "dist") == contents(built / "direct")


def test_the_wheel_holds_the_scripts_with_their_modes(built):
    held = {
        name[len("sdpn_k2/share/") :]: value for name, value in contents(built / "dist").items() if "/share/" in name
    }
    expected = dict(shared())
    assert held.keys() == {name for name in expected if not (ROOT / name).is_dir()} and len(held) > 100
    for name, (mode, content) in held.items():
        original = (ROOT / name).read_bytes()
        assert mode & 0o111 == (ROOT / name).stat().st_mode & 0o111, name
        if expected[name] != "120000":
            assert content == original, name
        elif original.startswith(b"#!"):
            target = re.fullmatch(rb'#!/usr/bin/env bash\nexec .*\)/([\w./-]+)" "\$@"\n', content)[1].decode()
            assert os.path.normpath(os.path.join(os.path.dirname(name), target)) in held


def test_the_package_comes_from_the_wheel(built, shell):
    done = shell(f"{built}/env/bin/python3 -c 'import sdpn_k2, torch; print(sdpn_k2.__file__, torch.__file__)'")
    package, torch = done.stdout.split()
    assert package.startswith(f"{built}/env/") and not torch.startswith(f"{built}/")


def test_all_tools_and_scripts_are_on_path(built, command, shell, tmp_path):
    names = [name for name, _ in shared() if not name.startswith("egs/")]
    names = [os.path.basename(name) for name in names if os.access(ROOT / name, os.X_OK)]
    done = shell(f'eval "$({command} kaldi --path)"; command -v python3 sdpn-k2 {" ".join(names)}')
    places = done.stdout.split()
    assert len(places) == 2 + len(names) and all(place.startswith(f"{built}/env/") for place in places)
    assert set(tools.names()) <= {os.path.basename(place) for place in places}
    # A recipe's ". path.sh" looks on PATH first.
    assert shell(f'eval "$({command} kaldi --path)"; ! command -v path.sh cmd.sh run.sh').stdout == ""
    # Twice changes nothing, and sh will do.
    setup = f'eval "$({command} kaldi --path)"; '
    path = shell(f'{setup}echo "$PATH"').stdout
    assert shell(f'{setup}{setup}echo "$PATH"').stdout == path
    (tmp_path / "line").write_text(f'{setup}echo "$PATH"\n')
    assert shell("sh line").stdout == path


def test_tools_and_scripts_run(command, shell, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "utt2spk").write_text("b s\na s\n")
    (tmp_path / "x.txt").write_text("a  [ 1 2 ]\n")
    done = shell(
        f'set -e; eval "$({command} kaldi --path)"\n'
        "copy-vector ark:x.txt ark,t:-\n"
        "run.pl log/1.log ivector-mean ark:x.txt mean.vec\n"
        "$SDPN_K2_ROOT/utils/run.pl log/2.log echo linked\n"
        "cat log/2.log\n"
        "$SDPN_K2_ROOT/utils/data/fix_data_dir.sh data\n"
        "utt2spk_to_spk2utt.pl data/utt2spk\n"
    )
    assert done.stdout.startswith("a  [ 1 2 ]\n") and "\nlinked\n" in done.stdout and done.stdout.endswith("s a b\n")
    assert (tmp_path / "mean.vec").is_file()


def test_binaries_of_kaldi_take_precedence(command, shell, tmp_path):
    (tmp_path / "kaldi").mkdir()
    real = tmp_path / "kaldi" / "copy-vector"
    real.write_text("#!/bin/sh\necho Kaldi\n")
    real.chmod(0o755)
    line = f'eval "$({command} kaldi --path)"; copy-vector; command -v copy-matrix'
    first, second = shell(line, PATH=f"{tmp_path}/kaldi:/usr/bin:/bin").stdout.splitlines()
    assert first == "Kaldi" and "kaldi-bin" in second
    # Likewise where KALDI_ROOT names a Kaldi.
    (tmp_path / "kaldi" / "tools" / "config").mkdir(parents=True)
    (tmp_path / "kaldi" / "tools" / "config" / "common_path.sh").write_text("export PATH=$KALDI_ROOT:$PATH\n")
    assert shell(line, KALDI_ROOT=f"{tmp_path}/kaldi").stdout.startswith("Kaldi\n")


@pytest.mark.parametrize("options", ["", "--copy"])
def test_recipe_folders(command, shell, tmp_path, options):
    recipe = tmp_path / "my recipe"
    done = shell(f"{command} recipe {options} '{recipe}'")
    assert done.stdout.count("\n") == 1 and done.stderr == ""
    assert {path.name for path in recipe.iterdir()} >= {
        "run.sh",
        "path.sh",
        "cmd.sh",
        "conf",
        "utils",
        "local",
        "steps",
    }
    assert {path.name for path in recipe.iterdir() if path.is_symlink()} == (
        set() if options else {name for name in FOLDERS if name != "egs" and (ROOT / name).is_dir()}
    )
    # Whatever python3 is on PATH, path.sh finds the one that has the package, and .venv is not made.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(shutil.which("false"))
    path = f"{tmp_path}/bin:/usr/bin:/bin"
    line = ". ./path.sh && copy-vector --help 2>&1 && utils/fix_data_dir.sh --help && bash run.sh --help"
    done = shell(line, recipe, PATH=path)
    assert "rspecifier" in done.stdout and "--stop-stage" in done.stdout
    assert not list(tmp_path.rglob(".venv"))
    # Nothing is overwritten, and nothing is added beside what exists.
    (recipe / "run.sh").write_text("mine")
    shutil.rmtree(recipe / "conf")
    done = shell(f"{command} recipe {options} '{recipe}'", check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and f"{recipe}/" in done.stderr
    assert (recipe / "run.sh").read_text() == "mine" and not (recipe / "conf").exists()
    assert not [path for path in recipe.iterdir() if path.name.startswith(".")]


def test_a_removed_environment_is_named(command, shell, tmp_path):
    shell(f"{command} recipe --copy new")
    text = (tmp_path / "new" / "path.sh").read_text()
    (tmp_path / "new" / "path.sh").write_text(re.sub("(?m)^sdpn_k2_bin=[^ ]*", "sdpn_k2_bin=/gone", text))
    done = shell("bash new/run.sh --stage 9", check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "/gone" in done.stderr and "path.sh" in done.stderr
    (tmp_path / "new" / "path.sh").write_text(re.sub("(?m)^sdpn_k2_bin=[^ ]*", "sdpn_k2_bin=", text))
    done = shell("bash new/run.sh --stage 9", check=False, PATH="/usr/bin:/bin")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "sdpn_k2_bin" in done.stderr


def test_a_file_in_the_place_of_the_recipe_is_refused(command, shell, tmp_path):
    (tmp_path / "file").write_text("mine")
    for name in ("file", "file/below"):
        done = shell(f"{command} recipe {name}", check=False)
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and "file" in done.stderr
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.slow
def test_the_recipe_runs_outside_the_checkout(command, shell, speech, tmp_path):
    """The demo corpus in miniature; utils/run_wheel.sh runs the whole of it."""
    shell(f"{command} recipe new")
    setting = TINY.replace("steps=3", "steps=5")
    done = shell(
        f"bash run.sh --nj 1 --ngpu 0 --corpus audio-dir --audio-root {speech} --config-set '{setting}'",
        tmp_path / "new",
        OMP_NUM_THREADS="1",
    )
    assert "Stage 7" in done.stdout
    assert (tmp_path / "new" / "exp" / "audio-dir" / "RESULTS.md").is_file()
