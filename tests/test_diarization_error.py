"""Diarization error rates, speaker turns and RTTM files: md-eval.pl and make_rttm.py as recipes call them."""

import random
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from diarization_reference import frame_error_rate, read_turns
from scipy.optimize import linear_sum_assignment

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.backend.diarization_error import best_assignment, score_recording

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def call(tmp_path):
    def run(name, *arguments, **options):
        command = [str(ROOT / name), *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, **options)

    return run


def refused(result):
    """Return the line with which a script ended."""
    assert result.returncode == 1 and result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def rttm(*turns, recording="r", channel="1"):
    return "".join(
        f"SPEAKER {recording} {channel} {start} {seconds} <NA> <NA> {name} <NA> <NA>\n"
        for name, start, seconds in turns
    )


def test_errors_by_hand():
    """Of 10 s, in which a speaks for 6 and b for 5: x is a, y is b, z is nobody."""
    reference = {"a": [(0, 6)], "b": [(5, 10)]}
    system = {"x": [(0, 4), (8, 9)], "y": [(6, 8)], "z": [(9, 11)]}
    scored = score_recording(reference, system, [(0, 10)])
    assert scored.pairs == {"a": "x", "b": "y"}
    assert scored.shared == {("a", "x"): 4, ("b", "x"): 1, ("b", "y"): 2, ("b", "z"): 1}
    errors = scored.errors
    assert (errors.evaluated, errors.scored_speech, errors.scored_speaker) == (10, 10, 11)
    # 4 to 6: a is missed for 2 s, b for 1 s; 8 to 10: x and z stand where b speaks.
    assert (errors.missed_speaker, errors.false_speaker, errors.confusion) == (3, 0, 2)
    assert errors.missed_speech == 2 and errors.false_speech == 0
    assert errors.rate == pytest.approx(5 / 11)
    single = score_recording(reference, system, [(0, 10)], single_speaker=True).errors
    assert (single.scored_speaker, single.missed_speaker, single.confusion) == (9, 1, 2)
    # Borders at 0, 5, 6 and 10, each with half a second on either side.
    collar = score_recording(reference, system, [(0, 10)], collar=0.5).errors
    assert (collar.scored, collar.missed_speaker, collar.confusion) == (7, 0.5, 1.5)
    part = score_recording(reference, system, [(0, 3), (9, 12)], excluded=[(1, 2)]).errors
    assert (part.evaluated, part.scored_speaker, part.confusion, part.false_speaker) == (5, 3, 0, 1)


def test_nobody_speaks():
    with pytest.raises(InputError, match="no speech"):
        score_recording({}, {"x": [(0, 1)]}, [(0, 2)]).errors.rate  # noqa: B018
    silent = score_recording({"a": [(0, 1)]}, {}, [(0, 2)]).errors
    assert silent.rate == 1.0 and silent.missed_speaker == 1


def test_assignment_is_optimal():
    generator = np.random.default_rng(0)
    for _ in range(300):
        weights = generator.random(generator.integers(0, 8, 2)) * (generator.random() < 0.5)
        weights = np.round(weights * 4) if generator.random() < 0.3 else weights
        pairs = best_assignment(weights)
        rows, columns = linear_sum_assignment(-weights)
        assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(rows)
        assert sum(weights[pair] for pair in pairs) == pytest.approx(weights[rows, columns].sum())


def conversations(path, seed, system=False):
    """Write three recordings of 40 turns each, some of which overlap; ``system`` moves, renames and drops turns."""
    generator, noise = random.Random(seed), random.Random(seed + 1)
    with open(path, "w") as stream:
        for recording in ("r0", "r1", "r2"):
            end = 0.0
            for _ in range(40):
                start = max(0.0, end + generator.uniform(-0.6, 1.0))
                seconds, speaker = generator.uniform(0.3, 4.0), generator.randrange(3)
                end = start + seconds
                if system:
                    start, seconds = max(0.0, start + noise.uniform(-0.3, 0.3)), seconds + noise.uniform(-0.25, 0.3)
                    speaker = noise.randrange(5) if noise.random() < 0.2 else speaker + 3
                    if noise.random() < 0.1:
                        continue
                stream.write(rttm((f"s{speaker}", f"{start:.3f}", f"{seconds:.3f}"), recording=recording))


# What the Python package mdeval 0.1.3 prints for conversations(…, 1) and conversations(…, 1, system=True): scored,
# missed, false-alarm and confused speaker time, and the error rate.
GOLDEN = {
    "": [254.47, 30.89, 17.44, 39.18, 34.39],
    "-c 0.25": [175.83, 11.83, 1.21, 30.15, 24.56],
    "-1": [231.67, 25.24, 16.93, 37.7, 34.48],
    "-1 -c 0.25": [175.49, 11.68, 1.21, 30.15, 24.53],
}


@pytest.mark.parametrize("options", GOLDEN)
def test_error_rates_of_conversations(call, tmp_path, options):
    conversations(tmp_path / "ref.rttm", 1)
    conversations(tmp_path / "sys.rttm", 1, system=True)
    result = call("utils/md-eval.pl", *options.split(), "-r", "ref.rttm", "-s", "sys.rttm")
    assert (result.returncode, result.stderr) == (0, "")
    lines = dict(line.strip().split(" =", 1) for line in result.stdout.splitlines() if " =" in line)
    names = ["SCORED SPEAKER TIME", "MISSED SPEAKER TIME", "FALARM SPEAKER TIME", "SPEAKER ERROR TIME"]
    found = [float(lines[name].split()[0]) for name in [*names, "OVERALL SPEAKER DIARIZATION ERROR"]]
    assert found == GOLDEN[options]
    collar = 0.25 if "0.25" in options else 0.0
    turns = [read_turns(tmp_path / name) for name in ("ref.rttm", "sys.rttm")]
    assert found[-1] == pytest.approx(frame_error_rate(*turns, collar, "1" in options.split("-c")[0]), abs=0.02)


def test_output_of_md_eval(call, tmp_path):
    (tmp_path / "ref.rttm").write_text(";; made by hand\n" + rttm(("a", 0, 6), ("b", "6.0*", 4)))
    (tmp_path / "sys.rttm").write_text(rttm(("x", 0, 5), ("y", 5, 5)))
    (tmp_path / "refs").write_text("ref.rttm\n")
    result = call(
        "utils/md-eval.pl", "-maf", "-c", "0", "-R", "refs", "-s", "-", input=(tmp_path / "sys.rttm").read_text()
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "'a' => 'x'\n     5.00 secs matched to 'x'\n     1.00 secs matched to 'y'\n" in result.stdout
    recording, total = result.stdout.split("*** Performance analysis for Speaker Diarization for ")[1:]
    assert recording.startswith("f=r ***\n") and total.startswith("ALL ***\n")
    for text, name in ((recording, "f=r"), (total, "ALL")):
        assert "SCORED SPEAKER TIME =     10.00 secs (100.0 percent of scored speech)\n" in text
        assert " SPEAKER ERROR TIME =      1.00 secs ( 10.0 percent of scored speaker time)\n" in text
        assert f" OVERALL SPEAKER DIARIZATION ERROR = 10.00 percent of scored speaker time  `({name})\n" in text
    call("utils/md-eval.pl", "-M", "map.csv", "-r", "ref.rttm", "-s", "sys.rttm")
    assert (tmp_path / "map.csv").read_text().splitlines()[1:] == [
        "r,1,a,x,mapped,5.0000",
        "r,1,a,y,notmapped,1.0000",
        "r,1,b,y,mapped,4.0000",
    ]


def test_regions_and_what_is_not_scored(call, tmp_path):
    (tmp_path / "ref.rttm").write_text(
        rttm(("a", 0, 6), ("b", 6, 4))
        + "NOSCORE r 1 1 1 <NA> <NA> <NA> <NA>\nSPKR-INFO r 1 <NA> <NA> <NA> unknown a <NA>\n"
    )
    (tmp_path / "sys.rttm").write_text(rttm(("x", 0, 8)))
    (tmp_path / "uem").write_text("audio/r.wav 1 0.0 8.0\n")
    result = call("utils/md-eval.pl", "-u", "uem", "-r", "ref.rttm", "-s", "sys.rttm")
    assert "EVAL TIME =      7.00 secs" in result.stdout and "DIARIZATION ERROR = 28.57 percent" in result.stdout


def test_a_wrong_channel_is_reported(call, tmp_path):
    (tmp_path / "ref.rttm").write_text(rttm(("a", 0, 6)))
    (tmp_path / "sys.rttm").write_text(rttm(("x", 0, 6), channel="0"))
    result = call("utils/md-eval.pl", "-r", "ref.rttm", "-s", "sys.rttm")
    assert "DIARIZATION ERROR = 100.00 percent" in result.stdout
    assert "such as r, channel 1 (there it has channel 0)" in result.stderr


@pytest.mark.parametrize(
    "text, message",
    [
        ("SPEAKER r 1 0 1\n", "x.rttm:1: .*9.* 5"),
        ("\nSPEKER r 1 0 1 <NA> <NA> a <NA> <NA>\n", "x.rttm:2: 'SPEKER'"),
        ("SPEAKER r 1 zero 1 <NA> <NA> a <NA> <NA>\n", "x.rttm:1: 'r' has 'zero'"),
        ("SPEAKER r 1 0 -1 <NA> <NA> a <NA> <NA>\n", "x.rttm:1: 'r' .*-1 s"),
        ("NOSCORE r 1 0 1 <NA> <NA> a <NA> <NA>\n", "no SPEAKER records"),
    ],
)
def test_bad_rttm(call, tmp_path, text, message):
    (tmp_path / "x.rttm").write_text(text)
    error = refused(call("utils/md-eval.pl", "-r", "x.rttm", "-s", "x.rttm"))
    assert re.search(message, error), error


@pytest.mark.parametrize(
    "arguments", [[], ["-r", "a"], ["-w", "-r", "a", "-s", "a"], ["-r", "a", "-s", "a", "b"], ["-q"]]
)
def test_bad_options_of_md_eval(call, arguments):
    refused(call("utils/md-eval.pl", *arguments))


# make_rttm.py


def make_rttm(call, tmp_path, segments, labels, *options):
    (tmp_path / "segments").write_text("".join(f"{line}\n" for line in segments))
    (tmp_path / "labels").write_text("".join(f"{line}\n" for line in labels))
    return call("diarization/make_rttm.py", *options, "segments", "labels", "rttm")


def test_turns_from_overlapping_windows(call, tmp_path):
    """By hand: borders in the middle of overlaps (1.5 of 1 to 2), and one turn of neighbours with one label."""
    segments = ["r-1 r 0 2", "r-2 r 1 3", "r-3 r 2 4", "r-4 r 6 7.5", "s-1 s 10.5 12", "s-2 s 12 13"]
    labels = ["r-1 1", "r-2 1", "r-3 2", "r-4 2", "s-1 1", "s-2 1"]
    assert make_rttm(call, tmp_path, segments, labels).returncode == 0
    assert (tmp_path / "rttm").read_text() == (
        "SPEAKER r 0   0.000   2.500 <NA> <NA> 1 <NA> <NA>\n"
        "SPEAKER r 0   2.500   1.500 <NA> <NA> 2 <NA> <NA>\n"
        "SPEAKER r 0   6.000   1.500 <NA> <NA> 2 <NA> <NA>\n"
        "SPEAKER s 0  10.500   2.500 <NA> <NA> 1 <NA> <NA>\n"
    )
    # Segments out of order, one of them inside of another, and another channel.
    segments = ["r-10 r 8 9", "r-2 r 0 6", "r-3 r 1 2"]
    assert make_rttm(call, tmp_path, segments, ["r-10 b", "r-2 a", "r-3 b"], "--rttm-channel", 1).returncode == 0
    assert (tmp_path / "rttm").read_text() == (
        "SPEAKER r 1   0.000   3.500 <NA> <NA> a <NA> <NA>\nSPEAKER r 1   8.000   1.000 <NA> <NA> b <NA> <NA>\n"
    )
    result = call("diarization/make_rttm.py", "segments", "-", "-", input="r-10 b\nr-2 a\nr-3 b\n")
    assert result.stdout == (tmp_path / "rttm").read_text().replace(" r 1 ", " r 0 ")


def test_a_segment_without_label_is_refused(call, tmp_path):
    error = refused(make_rttm(call, tmp_path, ["a r 0 1", "b r 1 2"], ["a 1"]))
    assert "'b'" in error and not (tmp_path / "rttm").exists()
