"""The list scripts of utils/, called as recipes call them."""

import ctypes
import os
import random
import re
import shutil
import subprocess
from itertools import chain, groupby
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdpn_k2.kaldi.datadir import lists

UTILS = Path(__file__).resolve().parents[1] / "utils"


@pytest.fixture
def call(tmp_path):
    def run(name, *arguments, stdin=""):
        return subprocess.run(
            [str(UTILS / name), *map(str, arguments)], cwd=tmp_path, input=stdin, capture_output=True, text=True
        )

    return run


def output(result):
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def fails(result, script, *parts):
    """Check that a script ended with one line that names it and all ``parts``."""
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert result.stderr.startswith(f"{script}: ") and all(part in result.stderr for part in parts), result.stderr


@pytest.fixture
def utt2spk(tmp_path):
    """Speakers of 1 to 12 utterances."""
    chance = random.Random(3)
    sizes = [chance.randint(1, 12) for _ in range(20)]
    lines = [f"s{speaker:02}-u{number} s{speaker:02}\n" for speaker, size in enumerate(sizes) for number in range(size)]
    (tmp_path / "utt2spk").write_text("".join(lines))
    return lines


# split_scp.pl


@pytest.mark.parametrize("parts", [1, 3, 7, 10])
def test_split_into_equal_parts(call, tmp_path, parts):
    lines = [f"u{number} x y\n" for number in range(10)]
    (tmp_path / "list").write_text("".join(lines))
    names = [f"part.{number}" for number in range(parts)]
    output(call("split_scp.pl", "list", *names))
    pieces = [(tmp_path / name).read_text().splitlines(True) for name in names]
    assert list(chain(*pieces)) == lines
    # The longer parts come first.
    lengths = [len(piece) for piece in pieces]
    assert lengths == sorted(lengths, reverse=True) and lengths[0] - lengths[-1] <= 1


def test_split_one_part_at_a_time(call, tmp_path):
    (tmp_path / "list").write_text("a\nb\nc\nd\ne\n")
    assert output(call("split_scp.pl", "-j", 2, 0, "list")) == "a\nb\nc\n"
    assert output(call("split_scp.pl", "-j", 2, 2, "--one-based", "list")) == "d\ne\n"
    assert output(call("split_scp.pl", "--one-based", "-j", 2, 1, "-", "out", stdin="x\ny")) == ""
    assert (tmp_path / "out").read_text() == "x\n"
    fails(call("split_scp.pl", "-j", 2, 2, "list"), "split_scp.pl", "2")
    fails(call("split_scp.pl", "--one-based", "-j", 2, 0, "list"), "split_scp.pl", "0", "2")


def test_split_keeps_speakers_together(call, tmp_path, utt2spk):
    names = [f"part.{number}" for number in range(5)]
    output(call("split_scp.pl", "--utt2spk=utt2spk", "utt2spk", *names))
    pieces = [(tmp_path / name).read_text().splitlines(True) for name in names]
    assert list(chain(*pieces)) == utt2spk
    speakers = [{line.split()[1] for line in piece} for piece in pieces]
    assert sum(map(len, speakers)) == 20
    assert output(call("split_scp.pl", "--utt2spk", "utt2spk", "-j", 5, 3, "utt2spk")) == "".join(pieces[3])
    # Moving any speaker at the border of two parts would not make their lengths more similar.
    for left, right in zip(pieces, pieces[1:]):
        difference = abs(len(left) - len(right))
        last = sum(line.split()[1] == left[-1].split()[1] for line in left)
        first = sum(line.split()[1] == right[0].split()[1] for line in right)
        assert abs(len(left) - last - (len(right) + last)) >= difference
        assert abs(len(left) + first - (len(right) - first)) >= difference


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.data())
def test_split_by_speaker_is_a_partition(sizes, data):
    parts = data.draw(st.integers(1, len(sizes)))
    items = [(speaker, number) for speaker, size in enumerate(sizes) for number in range(size)]
    groups = lists.split_by_speaker(items, [str(speaker) for speaker, _ in items], parts)
    assert len(groups) == parts and all(groups)
    assert list(chain(*groups)) == items
    runs = [speaker for group in groups for speaker, _ in groupby(group, key=lambda item: item[0])]
    assert runs == list(range(len(sizes)))


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["utt2spk"], ["--help"]),
        (["short", "a", "b", "c"], ["short", "2 lines", "3"]),
        (["--utt2spk=utt2spk", "short", "a"], ["short", "'x'", "utt2spk"]),
        (["--utt2spk=utt2spk", "one", "a", "b"], ["one", "1 speakers", "2"]),
        (["nowhere", "a"], ["nowhere: No such file or directory"]),
        (["--parts", "3", "short"], ["--parts", "--help"]),
    ],
)
def test_split_refuses(call, tmp_path, utt2spk, arguments, parts):
    (tmp_path / "short").write_text("x\ny\n")
    (tmp_path / "one").write_text("".join(line for line in utt2spk if line.endswith("s03\n")))
    fails(call("split_scp.pl", *arguments), "split_scp.pl", *parts)
    assert not (tmp_path / "a").exists()


# subset_scp.pl


def test_subset(call, tmp_path):
    (tmp_path / "list").write_text("".join(f"{number}\n" for number in range(8)))
    assert output(call("subset_scp.pl", "--first", 3, "list")).split() == ["0", "1", "2"]
    assert output(call("subset_scp.pl", "--last", 3, "list")).split() == ["5", "6", "7"]
    assert output(call("subset_scp.pl", 8, "list")).split() == list("01234567")
    assert output(call("subset_scp.pl", 0, "list")) == ""
    fails(call("subset_scp.pl", 9, "list"), "subset_scp.pl", "list", "8", "9")
    assert output(call("subset_scp.pl", "--quiet", 9, "list")).split() == list("01234567")


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), st.data())
def test_spread_is_even(total, data):
    number = data.draw(st.integers(0, total))
    chosen = lists.spread(range(total), number)
    assert len(chosen) == number and chosen == sorted(set(chosen))
    middle = total // 2
    if number < total:
        assert sum(item < middle for item in chosen) == number // 2


# shuffle_list.pl


@pytest.mark.parametrize("seed", [0, 7, 123456])
def test_shuffle_uses_drand48(call, seed):
    """Perl's rand is drand48; the C library has it too."""
    library = ctypes.CDLL(None)
    library.drand48.restype = ctypes.c_double
    library.srand48(seed)
    lines = [f"line {number}\n" for number in range(500)]
    keys = [f"{library.drand48():.15g}" for _ in lines]
    expected = [line for _, line in sorted(zip(keys, lines))]
    options = ["--srand", seed] if seed else []
    assert output(call("shuffle_list.pl", *options, stdin="".join(lines))).splitlines(True) == expected
    assert sorted(expected) == sorted(lines) and expected != lines


@pytest.mark.skipif(not shutil.which("perl"), reason="no perl here")
def test_shuffle_equals_perls(call):
    code = "srand(11); while (<>) { push @l, [rand(), $_] } print $_->[1] for sort { $a->[0] cmp $b->[0] } @l"
    text = "".join(f"{number}\n" for number in range(20000))  # enough for numbers that Perl writes with an exponent
    expected = subprocess.run(["perl", "-e", code], input=text, capture_output=True, text=True).stdout
    assert output(call("shuffle_list.pl", "--srand", 11, stdin=text)) == expected


# filter_scp.pl, filter_scps.pl


def test_filter(call, tmp_path):
    (tmp_path / "ids").write_text("b anything\nd\n")
    (tmp_path / "table").write_text("a 1 x\nb 2  y\nc 3\nd\n")
    assert output(call("filter_scp.pl", "ids", "table")) == "b 2  y\nd\n"
    assert output(call("filter_scp.pl", "--exclude", "ids", "table")) == "a 1 x\nc 3\n"
    assert output(call("filter_scp.pl", "-f", 2, "ids", stdin="1 a\n2 b\n3 d z\n")) == "2 b\n3 d z\n"
    assert output(call("filter_scp.pl", "-f", 2, "--exclude", "ids", "-", stdin="1 a\n2 b\n")) == "1 a\n"
    assert output(call("filter_scp.pl", "/dev/null", "table")) == ""
    result = call("filter_scp.pl", "-f", 2, "ids", "table")
    assert result.returncode == 1 and result.stderr.startswith("filter_scp.pl: table:4: ") and "'d'" in result.stderr
    (tmp_path / "ids").write_text("b\n\n")
    fails(call("filter_scp.pl", "ids", "table"), "filter_scp.pl", "ids:2:")


def test_filter_ends_quietly_with_its_reader(tmp_path):
    (tmp_path / "ids").write_text("".join(f"{number}\n" for number in range(100000)))
    command = f"set -o pipefail; {UTILS}/filter_scp.pl ids ids | head -n 1"
    result = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (141, "0\n", "")


def test_filter_by_several_lists(call, tmp_path):
    for number, ids in ((1, "a\nc\n"), (2, "b\nc\n"), (3, "\n")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / f"{number}/ids").write_text(ids)
    (tmp_path / "table").write_text("c 3\na 1\nx 0\nb 2\n")
    result = call("filter_scps.pl", "JOB=1:3", "JOB/ids", "table", "JOB/out")
    assert (result.returncode, result.stdout) == (0, "")
    assert [(tmp_path / f"{number}/out").read_text() for number in (1, 2, 3)] == ["c 3\na 1\n", "c 3\nb 2\n", ""]
    assert re.findall(r"^filter_scps.pl: warning: 1 lines of table .* (no|several) output", result.stderr, re.M) == [
        "no", "several",
    ]  # fmt: skip
    assert output(call("filter_scps.pl", "--no-warn", "-f", 2, "N=2", "N/ids", "-", "N/out", stdin="1 a\n2 b\n")) == ""
    assert (tmp_path / "2/out").read_text() == "2 b\n"
    fails(call("filter_scps.pl", "JOB=1:2", "JOB/ids", "table", "out"), "filter_scps.pl", "'out'", "JOB")
    fails(call("filter_scps.pl", "1:2", "JOB/ids", "table", "JOB/out"), "filter_scps.pl", "JOB=1:8", "'1:2'")


# apply_map.pl


@pytest.mark.parametrize(
    "fields, expected",
    [
        (None, "A1 A2 B x C\n"),
        ("1", "A1 A2 b c\n"),
        ("2-3", "a B x C\n"),
        ("2-", "a B x C\n"),
        ("-2", "A1 A2 B x c\n"),
        ("3", "a b C\n"),
        ("4-", "a b c\n"),
    ],
)
def test_apply_map_to_fields(call, tmp_path, fields, expected):
    (tmp_path / "map").write_text("a A1 A2\nb old\nb B x\nc C\nd\n")
    options = ["-f", fields] if fields else []
    assert output(call("apply_map.pl", *options, "map", stdin="a b  c\n")) == expected
    if options:
        colon = fields.replace("-", ":")  # Kaldi accepts it too
        assert output(call("apply_map.pl", "-f", colon, "map", stdin="a b  c\n")) == expected


def test_apply_map_with_unknown_fields(call, tmp_path):
    (tmp_path / "map").write_text("a A\nd\n")
    (tmp_path / "in").write_text("a x d a\n")
    assert output(call("apply_map.pl", "--permissive", "map", "in")) == "A x  A\n"
    fails(call("apply_map.pl", "map", "in"), "apply_map.pl", "in:1: 'x'", "map", "--permissive")
    for fields in ("0", "3-2", "x", "-"):
        assert call("apply_map.pl", "-f", fields, "map", "in").returncode == 1


# utt2spk_to_spk2utt.pl, spk2utt_to_utt2spk.pl


def test_utt2spk_and_spk2utt(call, tmp_path, utt2spk):
    spk2utt = output(call("utt2spk_to_spk2utt.pl", "utt2spk"))
    assert [line.split()[0] for line in spk2utt.splitlines()] == [f"s{speaker:02}" for speaker in range(20)]
    assert output(call("spk2utt_to_utt2spk.pl", stdin=spk2utt)) == "".join(utt2spk)
    fails(call("utt2spk_to_spk2utt.pl", stdin="a s\nb\n"), "utt2spk_to_spk2utt.pl", "-:2:", "'b'")
    result = call("spk2utt_to_utt2spk.pl", "-", stdin="s a\n\n")
    assert result.returncode == 1 and result.stderr.startswith("spk2utt_to_utt2spk.pl: -:2: ")


# create_split_dir.pl, create_data_link.pl, make_absolute.sh


def test_files_are_spread_over_disks(call, tmp_path):
    (tmp_path / "file").write_text("")
    result = call("create_split_dir.pl", "disk/a", "disk/b", "file/no", "exp/storage")
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr.startswith("create_split_dir.pl: warning: ") and "file/no" in result.stderr
    storage = tmp_path / "exp/storage"
    assert {path.name: os.readlink(path) for path in storage.iterdir()} == {
        "1": str(tmp_path / "disk/a"), "2": str(tmp_path / "disk/b"),
    }  # fmt: skip
    names = [f"exp/raw.{number}.ark" for number in range(20)]
    for _ in range(2):
        output(call("create_data_link.pl", *names, "disk/unspread.ark"))
    targets = {os.path.dirname(os.readlink(tmp_path / name)) for name in names}
    assert targets == {str(tmp_path / "disk/a"), str(tmp_path / "disk/b")}
    (tmp_path / names[0]).write_text("data")
    assert sorted(path.read_text() for path in (tmp_path / "disk").glob("*/raw.0.ark")) == ["data"]
    assert not (tmp_path / "disk/unspread.ark").is_symlink()
    assert call("create_split_dir.pl", "file/no", "exp/none").returncode == 1
    result = call("create_split_dir.pl", "--suffix", "me", "disk/b", "disk/a", "disk/c", "exp/storage")
    assert "exp/storage/1" in result.stderr and "exp/storage/2" in result.stderr
    assert {path.name: os.readlink(path) for path in storage.iterdir()} == {
        "1": str(tmp_path / "disk/a"), "2": str(tmp_path / "disk/b"), "3": str(tmp_path / "disk/c/me"),
    }  # fmt: skip


def test_make_absolute(call, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert output(call("make_absolute.sh", "link/../link/x")) == f"{(tmp_path / 'real').resolve()}/x\n"
    fails(call("make_absolute.sh", "no/such/x"), "make_absolute.sh", "no/such/x")
    assert call("make_absolute.sh").returncode == 1
