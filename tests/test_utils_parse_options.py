"""utils/parse_options.sh, sourced by a script."""

import subprocess
from pathlib import Path

import pytest

PARSE_OPTIONS = Path(__file__).resolve().parents[1] / "utils" / "parse_options.sh"

SCRIPT = f"""\
#!/usr/bin/env bash
# Does a thing.
#
# Example: thing.sh --nj 8 data/train
# licence of this comment
set -euo pipefail

# A comment that is not the opening one.
nj=4   # jobs
use_gpu=false
some_name=
cmd=run.pl
. {PARSE_OPTIONS}
printf '%s|' "$nj" "$use_gpu" "$some_name" "$cmd" "$@"
"""


@pytest.fixture
def thing(tmp_path):
    script = tmp_path / "thing.sh"
    script.write_text(SCRIPT)

    def call(*arguments):
        return subprocess.run(["bash", str(script), *arguments], cwd=tmp_path, capture_output=True, text=True)

    return call


def values(result):
    assert result.returncode == 0, result.stderr
    return result.stdout.split("|")[:-1]


def test_without_options_the_defaults_and_all_arguments_stay(thing):
    assert values(thing("a b", "", "c")) == ["4", "false", "", "run.pl", "a b", "", "c"]


def test_options_set_variables_of_their_name(thing):
    arguments = ["--nj", "8", "--use-gpu", "true", "--some-name", "x", "data"]
    assert values(thing(*arguments)) == ["8", "true", "x", "run.pl", "data"]


@pytest.mark.parametrize("value", ["$HOME `id`", "a \"b\" 'c'", "--max-active 7", "", "*", "a\nb", "%s\\n"])
def test_values_are_literal(thing, value):
    assert values(thing("--some-name", value))[2] == value


def test_options_end_at_the_first_other_argument(thing):
    assert values(thing("data", "--nj", "8")) == ["4", "false", "", "run.pl", "data", "--nj", "8"]
    # As when a command with options of its own is passed on.
    assert values(thing("tool", "--config", "no/such/file"))[4:] == ["tool", "--config", "no/such/file"]


def test_command_line_overrides_config_in_any_order(thing, tmp_path):
    (tmp_path / "thing.conf").write_text("nj=20\nsome_name='from file'\n")
    assert values(thing("--config", "thing.conf"))[:3] == ["20", "false", "from file"]
    assert values(thing("--nj", "3", "--config", "thing.conf"))[:3] == ["3", "false", "from file"]
    assert values(thing("--config", "thing.conf", "--nj", "3"))[:3] == ["3", "false", "from file"]


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["--njobs", "8"], ["--njobs"]),
        (["--", "8"], ["-- "]),
        (["--nj;id", "8"], ["--nj;id"]),
        (["--nj=8"], ["'--nj=8'"]),
        (["--nj"], ["--nj"]),
        (["--use-gpu", "yes"], ["--use-gpu", "'yes'", "true", "false"]),
        (["--config", "nowhere.conf"], ["nowhere.conf"]),
        (["--config"], ["--config"]),
        (["--cmd", ""], ["--cmd", "cmd.sh"]),
    ],
)
def test_invalid_options_end_the_script_with_one_line(thing, arguments, parts):
    result = thing(*arguments)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert result.stderr.startswith("thing.sh: ") and all(part in result.stderr for part in parts)


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_is_the_opening_comment_and_the_options(thing, option):
    result = thing("--nj", "5", option)
    assert result.returncode == 0
    assert result.stdout == (
        "Does a thing.\n\nExample: thing.sh --nj 8 data/train\nlicence of this comment\n\n"
        "Options and their defaults:\n  --nj 4   # jobs\n  --use-gpu false\n  --some-name \n  --cmd run.pl\n"
    )


def test_help_message_of_the_script_comes_first(tmp_path):
    script = tmp_path / "thing.sh"
    script.write_text(f'# Not this.\nhelp_message="Usage: thing.sh <a>\\n  e.g. thing.sh b"\n. {PARSE_OPTIONS}\n')
    result = subprocess.run(["bash", str(script), "--help"], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "Usage: thing.sh <a>\n  e.g. thing.sh b\n")


def test_a_script_may_define_its_own_option_config(tmp_path):
    script = tmp_path / "thing.sh"
    script.write_text(f"set -eu\nconfig=conf/default.yaml\n. {PARSE_OPTIONS}\necho $config\n")
    (tmp_path / "c.yaml").write_text("model: {}\n")
    call = ["bash", str(script), "--config", str(tmp_path / "c.yaml")]
    assert subprocess.run(call, capture_output=True, text=True).stdout == f"{tmp_path / 'c.yaml'}\n"
