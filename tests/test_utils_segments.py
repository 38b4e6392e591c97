"""Scripts that cut recordings into segments and pieces: segmentation.pl and utils/data/get_uniform_subsegments.py."""

import re
import subprocess
from pathlib import Path

import pytest

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir import data_dir, data_dir_ops, derived_dirs, frame_segments, validation

UTILS = Path(__file__).resolve().parents[1] / "utils"

# Recordings as runs "class x frames", and what Kaldi's segmentation.pl prints for them with three sets of options.
RECORDINGS = {
    "a": "0x120 2x300 0x40 2x150 0x600 1x50 0x30",
    "b": "2x4000",
    "c": "0x50 1x20 0x3 2x9 0x2 1x5 0x900 2x800 0x10 2x900",
    "d": "0x77",
    "e": "1x5 0x95 2x1",
}
PERL = {
    "": """\
a-0098-0631 a 0.98 6.31
b-00000-02000 b 0.00 20.00
b-02000-04000 b 20.00 40.00
c-00000-00273 c 0.00 2.73
c-00805-01794 c 8.05 17.94
c-01794-02699 c 17.94 26.99
e-0100-0101 e 1.00 1.01
for recording b, only got a proportion 0 of silence frames, versus target 0.2
for recording b, splitting segment of length 40 seconds into 2 pieces (--hard-max-segment-length 30)
no segments found for recording d
no segments for recording d
""",
    "--silence-proportion 0.01001 --remove-noise-only-segments false": """\
a-00119-00421 a 1.19 4.21
a-00459-00611 a 4.59 6.11
a-01209-01260 a 12.09 12.60
b-00000-02000 b 0.00 20.00
b-02000-04000 b 20.00 40.00
c-00047-00092 c 0.47 0.92
c-00987-01791 c 9.87 17.91
c-01797-02699 c 17.97 26.99
e-0000-0005 e 0.00 0.05
e-0100-0101 e 1.00 1.01
for recording b, only got a proportion 0 of silence frames, versus target 0.01001
for recording b, splitting segment of length 40 seconds into 2 pieces (--hard-max-segment-length 30)
no segments found for recording d
no segments for recording d
""",
    "--max-segment-length=2.5 --hard-max-segment-length=4.5 --frame-shift=0.015": """\
a-0147-0404 a 1.47 4.04
a-0404-0660 a 4.04 6.60
a-0660-0946 a 6.60 9.46
c-00000-00124 c 0.00 1.24
c-01207-01578 c 12.07 15.78
c-01578-01948 c 15.78 19.48
c-01948-02319 c 19.48 23.19
c-02319-02691 c 23.19 26.91
c-02691-03030 c 26.91 30.30
c-03030-03369 c 30.30 33.69
c-03369-03708 c 33.69 37.08
c-03708-04048 c 37.08 40.48
e-0150-0151 e 1.50 1.51
for recording a, splitting segment of length 5.13 seconds into 2 pieces (--hard-max-segment-length 4.5)
for recording c, splitting segment of length 14.835 seconds into 4 pieces (--hard-max-segment-length 4.5)
for recording c, splitting segment of length 13.575 seconds into 4 pieces (--hard-max-segment-length 4.5)
no segments found for recording d
no segments for recording d
""",
}


def segment(text, *options):
    return subprocess.run([UTILS / "segmentation.pl", *options], input=text, capture_output=True, text=True)


@pytest.mark.parametrize("options", PERL)
def test_segments_are_those_of_kaldis_script(options):
    names = [name for name in RECORDINGS if f" {name} " in PERL[options] or f"{name}\n" in PERL[options]]
    runs = {name: re.findall(r"(\d)x(\d+)", RECORDINGS[name]) for name in names}
    lines = [f"{name} {' '.join(' '.join([each] * int(n)) for each, n in runs[name])}\n" for name in names]
    result = segment("".join(lines), *options.split())
    assert result.returncode == 0
    assert result.stdout + result.stderr.replace("segmentation.pl: warning: ", "") == PERL[options]


def test_bad_lines_of_classes():
    result = segment("a\n\nb 1.0 2 0\n")  # as Perl reads numbers
    assert result.stdout == "b-00-02 b 0.00 0.02\n"
    assert "invalid input line a\n" in result.stderr
    result = segment("a 1 3\n")
    assert result.returncode == 1 and re.fullmatch(r"segmentation.pl: line 1 .*'3'.*\n", result.stderr)
    # The brackets of copy-vector count as silence, as in Perl.
    assert segment("a [ 2 2 ]\n", "--silence-proportion=0.011").stdout == "a-01-03 a 0.01 0.03\n"


@pytest.mark.parametrize(
    "rules", [{"silence_proportion": 1}, {"frame_shift": 0}, {"max_segment_length": 40}, {"hard_max_segment_length": 3}]
)
def test_impossible_rules(rules):
    with pytest.raises(InputError, match=next(iter(rules)).replace("_", "-")):
        frame_segments.SegmentationRules(**rules)


def pieces(folder, segments, *options):
    (folder / "segments").write_text(segments)
    script = UTILS / "data/get_uniform_subsegments.py"
    return subprocess.run([script, *options, folder / "segments"], capture_output=True, text=True)


CALLHOME = ["--max-segment-duration=1.5", "--overlap-duration=0.75", "--max-remaining-duration=0.5"]


def test_uniform_pieces(tmp_path):
    # By hand, after the rules in Kaldi's documentation: windows of 1.5 s every 0.75 s.
    result = pieces(tmp_path, "a r 2 5\nb r 0 1\nc r 1 2.75\n", *CALLHOME, "--constant-duration=True")
    assert result.stdout == (
        "a-00000000-00000150 a 0.0 1.5\na-00000075-00000225 a 0.75 2.25\na-00000150-00000300 a 1.5 3.0\n"
        "b-00000000-00000100 b 0.0 1.0\n"
        "c-00000000-00000150 c 0.0 1.5\nc-00000075-00000175 c 0.75 1.75\n"
    )
    # Without it, up to 0.5 s more belong to the last piece.
    result = pieces(tmp_path, "a r 2 5\nc r 1 2.75\n", *CALLHOME)
    assert result.stdout == (
        "a-00000000-00000150 a 0.0 1.5\na-00000075-00000225 a 0.75 2.25\na-00000150-00000300 a 1.5 3.0\n"
        "c-00000000-00000175 c 0.0 1.75\n"
    )
    # The last piece is rounded, those before it are truncated, as in Kaldi: 0.29 s is 28.999… hundredths.
    result = pieces(tmp_path, "a r 0 0.58\n", "--max-segment-duration=0.29", "--overlap-duration=0")
    assert result.stdout == "a-00000000-00000058 a 0.0 0.58\n"
    options = ["--max-segment-duration=0.29", "--overlap-duration=0", "--max-remaining-duration=0"]
    assert pieces(tmp_path, "a r 0 0.5\n", *options).stdout.startswith("a-00000000-00000028 a 0.0 0.29\na-00000029-")


def test_uniform_pieces_refuse(tmp_path):
    for segments, options in (("a r 0 -1\n", []), ("a r 0 1\n", ["--overlap-duration=30"]), ("a r x 1\n", [])):
        result = pieces(tmp_path, segments, *options)
        assert result.returncode == 1 and len(result.stderr.splitlines()) == 1


def test_uniform_pieces_make_a_data_directory(tmp_path):
    data_dir_ops.write_data_dir(
        tmp_path / "data",
        {"r1": "r1.wav"},
        {"r1-a": "r1", "r1-b": "r1"},
        {"segments": {"r1-a": "r1 0 4.2", "r1-b": "r1 5 5.8"}, "feats.scp": {"r1-a": "f.ark:5", "r1-b": "f.ark:9"}},
    )
    result = pieces(tmp_path, (tmp_path / "data/segments").read_text(), *CALLHOME, "--constant-duration=True")
    (tmp_path / "subsegments").write_text(result.stdout)
    number = derived_dirs.subsegment(tmp_path / "data", tmp_path / "subsegments", tmp_path / "pieces")
    assert number == validation.validate(tmp_path / "pieces", text=False) == 6
    assert data_dir.read_map(tmp_path / "pieces/segments")["r1-a-00000300-00000420"] == "r1 3.000 4.200"
