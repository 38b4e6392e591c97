"""Kaldi data directories: reading, writing and checking their tables, and operations on whole directories."""

import shutil
import subprocess
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir import data_dir, data_dir_ops, derived_dirs, repair, validation

KEYS = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zs", "Zl", "Zp")), min_size=1, max_size=8)
VALUES = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zs", "Zl", "Zp")), min_size=1, max_size=8)


def assert_message(error, where, *words):
    """An error begins with the file (and line) and names what matters."""
    message = str(error.value)
    assert message.startswith(f"{where}: ") and "\n" not in message
    assert all(word in message for word in words), message


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


# Tables


def test_map_keeps_the_rest_of_the_line(tmp_path):
    path = write(tmp_path / "wav.scp", "b  sph2pipe -f wav 'my file.sph' |\na\t/x y/a.wav  \n")
    assert data_dir.read_map(path) == {"b": "sph2pipe -f wav 'my file.sph' |", "a": "/x y/a.wav"}
    assert list(data_dir.read_map(path)) == ["b", "a"]


def test_only_ascii_white_space_separates(tmp_path):
    path = write(tmp_path / "text", "a\u3000b 你好\u3000吗\u00a0x\nc\n")
    assert data_dir.read_map(path) == {"a\u3000b": "你好\u3000吗\u00a0x", "c": ""}


def test_lists_numbers_segments(tmp_path):
    assert data_dir.read_lists(write(tmp_path / "spk2utt", "s a b\nt c\n")) == {"s": ["a", "b"], "t": ["c"]}
    assert data_dir.read_numbers(write(tmp_path / "utt2dur", "a 1.5 \nb 2\n")) == {"a": 1.5, "b": 2.0}
    segments = data_dir.read_segments(write(tmp_path / "segments", "a rec 0.5 1.25\nb rec 1 -1\nc rec 0 1 A\n"))
    assert segments == {"a": ("rec", 0.5, 1.25), "b": ("rec", 1.0, -1.0), "c": ("rec", 0.0, 1.0)}


@pytest.mark.parametrize(
    "reader, text, line, words",
    [
        ("read_map", "a 1\n\nb 2\n", ":2", ["empty"]),
        ("read_map", "a 1\nb\n", ":2", ["'b'"]),
        ("read_map", "a 1\nb 2\na 3\n", ":3", ["duplicate", "'a'"]),
        ("read_map", "a 1\nb 2\r\n", ":2", ["Windows", "sed -i 's/\\r$//' {}"]),
        ("read_map", None, "", ["No such file"]),
        ("read_numbers", "a 1\nb nan\n", ":2", ["'b'", "'nan'"]),
        ("read_numbers", "a 1 2\n", ":1", ["'a'", "'1 2'"]),
        ("read_segments", "a rec 1\n", ":1", ["'a rec 1'"]),
        ("read_segments", "a rec 2 1\n", ":1", ["'a'", "from 2 to 1 s"]),
        ("read_segments", "a rec -1 1\n", ":1", ["'a'", "-1 s"]),
    ],
)
def test_unusable_tables_are_named_by_file_and_line(tmp_path, reader, text, line, words):
    path = tmp_path / "table"
    if text is not None:
        write(path, text)
    with pytest.raises(InputError) as error:
        list(getattr(data_dir, reader)(path))
    assert_message(error, f"{path}{line}", *(word.format(path) for word in words))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=20))
def test_written_maps_are_sorted_like_sort_and_read_back(tmp_path, table):
    path = tmp_path / "table"
    data_dir.write_map(path, table)
    ordered = subprocess.run(["sort", "-c", str(path)], env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"})
    assert ordered.returncode == 0
    assert data_dir.read_map(path) == table


def test_values_may_be_numbers_and_lists(tmp_path):
    data_dir.write_map(tmp_path / "t", {"b": 0.1, "a": ["x", "y"], "c": 3})
    assert (tmp_path / "t").read_text() == "a x y\nb 0.1\nc 3\n"


def test_names_that_are_not_utf8_survive(tmp_path):
    path = write(tmp_path / "wav.scp", b"a /caf\xe9.wav\n")
    data_dir.write_map(tmp_path / "copy", data_dir.read_map(path))
    assert (tmp_path / "copy").read_bytes() == b"a /caf\xe9.wav\n"


@pytest.mark.parametrize(
    "items, words",
    [
        ([("a", "1"), ("a", "2")], "duplicate key 'a'"),
        ([("a b", "1")], "'a b'"),
        ([("", "1")], "''"),
        ([("a", "1\n2")], "'a'"),
    ],
)
def test_unreadable_keys_and_values_are_not_written(tmp_path, items, words):
    with pytest.raises(InputError, match=f"/t: .*{words}"):
        data_dir.write_map(tmp_path / "t", items)
    assert list(tmp_path.iterdir()) == []


def test_utt2spk_and_spk2utt_are_inverses():
    utt2spk = {"s1-a": "s1", "s2-a": "s2", "s1-b": "s1"}
    spk2utt = {"s1": ["s1-a", "s1-b"], "s2": ["s2-a"]}
    assert data_dir.spk2utt(utt2spk) == spk2utt
    assert data_dir.utt2spk(spk2utt) == utt2spk


# validate


@pytest.fixture
def plain(tmp_path):
    """A directory without segments: each recording is an utterance."""
    names = ["s1-a", "s1-b", "s2-a", "s2-b", "s3-a"]
    data_dir_ops.write_data_dir(
        tmp_path / "plain",
        {name: f"/audio/{name}.wav" for name in names},
        {name: name[:2] for name in names},
        {
            "feats.scp": {name: f"/feats.ark:{index}" for index, name in enumerate(names)},
            "text": dict.fromkeys(names, "hello you"),
            "utt2num_frames": dict.fromkeys(names, 100),
            "spk2gender": {"s1": "f", "s2": "m", "s3": "f"},
        },
    )
    return tmp_path / "plain"


@pytest.fixture
def segmented(tmp_path):
    """A directory with segments: two recordings of two speakers' utterances."""
    directory = tmp_path / "segmented"
    segments = {"s1-a": "r1 0 2", "s1-b": "r1 2.5 4", "s2-a": "r1 5 6.25", "s2-b": "r2 0.5 3", "s3-a": "r2 4 -1"}
    data_dir_ops.write_data_dir(
        directory,
        {"r1": "sox r1.mp3 -t wav - |", "r2": "r2.wav"},
        {name: name[:2] for name in segments},
        {"segments": segments, "reco2dur": {"r1": 10, "r2": 5.5}},
    )
    return directory


def spoil(path, old, new):
    text = path.read_text()
    assert old in text
    write(path, text.replace(old, new))


def test_good_directories_pass(plain, segmented):
    assert validation.validate(plain) == 5
    assert validation.validate(segmented, feats=False, text=False) == 5


@pytest.mark.parametrize(
    "name, old, new, where, words",
    [
        ("utt2spk", "s1-b s1\n", "", "spk2utt:1", ["'s1'", "utt2spk"]),
        ("utt2spk", "s1-b s1", "s1-b s1 s2", "utt2spk:2", ["'s1-b s1 s2'"]),
        ("utt2spk", "s1-a s1\ns1-b s1\n", "s1-b s1\ns1-a s1\n", "utt2spk:2", ["'s1-a'", "C-locale order"]),
        ("utt2spk", "s2-a s2", "s2-a s3", "utt2spk:4", ["speaker 's2'"]),
        ("utt2spk", "s2-b s2", "s2-a s2", "utt2spk:4", ["duplicate", "'s2-a'"]),
        ("spk2utt", "s3 s3-a\n", "", "spk2utt", ["1 of 3", "{d}/utt2spk", "'s3'"]),
        ("wav.scp", "s2-a /audio/s2-a.wav\n", "", "wav.scp", ["1 of 5", "{d}/utt2spk", "'s2-a'"]),
        ("feats.scp", "s2-a ", "s2-aa ", "feats.scp:3", ["'s2-aa'", "{d}/utt2spk"]),
        ("utt2num_frames", "s2-b 100", "s2-b 0", "utt2num_frames:4", ["'s2-b'", "0"]),
        ("utt2num_frames", "s2-b 100", "s2-b x", "utt2num_frames:4", ["'s2-b'", "'x'"]),
        ("utt2num_frames", "s2-b 100", "s2-b 99.5", "utt2num_frames:4", ["'s2-b'", "99.5"]),
        ("utt2num_frames", "s2-b 100", "s2-b 1_0", "utt2num_frames:4", ["'s2-b'", "'1_0'"]),
        ("spk2utt", "s1 s1-a", "s1\x01 s1-a", "spk2utt:1", ["s1"]),
        ("spk2gender", "s2 m", "s2 male", "spk2gender:2", ["'s2'", "'male'"]),
        ("spk2gender", "s2 m\n", "", "spk2gender", ["1 of 3", "{d}/spk2utt", "'s2'"]),
        ("wav.scp", "s2-a /audio/s2-a.wav", "s2-a", "wav.scp:3", ["'s2-a'"]),
        ("feats.scp", "s3-a", "\ns3-a", "feats.scp:5", ["empty"]),
        ("wav.scp", "s1-b.wav\n", "s1-b.wav\r\n", "wav.scp:2", ["Windows"]),
    ],
)
def test_first_bad_line_is_named(plain, name, old, new, where, words):
    spoil(plain / name, old, new)
    with pytest.raises(InputError) as error:
        validation.validate(plain)
    assert_message(error, plain / where, *(word.format(d=plain) for word in words))


@pytest.mark.parametrize("new", ["s2-a h\xe9llo you", "s2-a"])
def test_text_may_be_non_ascii_or_empty(plain, new):
    spoil(plain / "text", "s2-a hello you", new)
    assert validation.validate(plain) == 5


@pytest.mark.parametrize(
    "name, old, new, where, words",
    [
        ("segments", "r2 0.5 3", "r2 3 0.5", "segments:4", ["'s2-b'", "from 3 to 0.5 s"]),
        ("segments", "s2-b r2", "s2-b r3", "segments:4", ["'r3'", "{d}/wav.scp"]),
        ("segments", "s2-b r2 0.5 3\n", "", "segments", ["1 of 5", "{d}/utt2spk", "'s2-b'"]),
        ("wav.scp", "r2 r2.wav\n", "r2 r2.wav\nr3 r3.wav\n", "wav.scp:3", ["'r3'", "{d}/segments"]),
        ("reco2dur", "r2 5.5\n", "", "reco2dur", ["1 of 2", "{d}/wav.scp", "'r2'"]),
    ],
)
def test_segments_and_recordings_must_agree(segmented, name, old, new, where, words):
    spoil(segmented / name, old, new)
    with pytest.raises(InputError) as error:
        validation.validate(segmented, feats=False, text=False)
    assert_message(error, segmented / where, *(word.format(d=segmented) for word in words))


def test_required_tables(plain, tmp_path):
    for name, option in (("feats.scp", "feats"), ("text", "text"), ("wav.scp", "wav")):
        (plain / name).rename(plain / "away")
        with pytest.raises(InputError, match=f"/{name}: "):
            validation.validate(plain)
        assert validation.validate(plain, **{option: False}) == 5
        (plain / "away").rename(plain / name)
    with pytest.raises(InputError, match="/nowhere: "):
        validation.validate(tmp_path / "nowhere")
    write(plain / "utt2spk", "")
    with pytest.raises(InputError, match="/utt2spk: "):
        validation.validate(plain)


def test_text_must_be_utf8(plain):
    write(plain / "text", (plain / "text").read_bytes().replace(b"s2-a hello", b"s2-a h\xe9llo"))
    with pytest.raises(InputError, match="/text:3: .*'s2-a'.* UTF-8"):
        validation.validate(plain)


def test_speaker_order_is_optional(tmp_path):
    with pytest.raises(InputError, match="/utt2spk:2: speaker 's'"):
        data_dir_ops.write_data_dir(tmp_path / "d", {"a": "a.wav", "b": "b.wav"}, {"a": "t", "b": "s"})
    assert validation.validate(tmp_path / "d", feats=False, text=False, speaker_order=False) == 2


# fix


def test_fix_makes_a_directory_valid_again(plain):
    # Unsorted, a Windows line end, an empty line, a repeated line, an unknown speaker.
    write(plain / "utt2spk", "s2-b s2\r\n\ns1-a s1\ns1-a s1\ns2-a s2\ns3-a s3\nzz-z zz\n")
    write(plain / "feats.scp", "s2-b /f:4\ns1-b /f:2\ns1-a /f:1\ns2-a\ns3-a /f:5\n")  # without a value
    write(plain / "spk2gender", "s1 f\ns2 m\n")  # without s3
    notes = repair.fix(plain)
    assert validation.validate(plain) == 2
    assert data_dir.read_map(plain / "utt2spk") == {"s1-a": "s1", "s2-b": "s2"}
    assert (plain / "spk2utt").read_text() == "s1 s1-a\ns2 s2-b\n"
    assert (plain / "feats.scp").read_text() == "s1-a /f:1\ns2-b /f:4\n"
    assert (plain / ".backup/utt2spk").read_bytes().startswith(b"s2-b s2\r\n")
    assert notes[-1] == f"kept 2 utterances out of 5; old files are in {plain}/.backup"


def test_fix_leaves_a_valid_directory_unchanged(plain, segmented):
    for directory in (plain, segmented):
        before = {path.name: path.read_bytes() for path in directory.iterdir()}
        assert repair.fix(directory) == ["kept all 5 utterances"]
        assert {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()} == before


def test_fix_drops_bad_segments_and_missing_recordings(segmented):
    write(segmented / "segments", "s1-a r1 0 2\ns1-b r1 4 2.5\ns2-a r1 5\ns2-b r2 0.5 3\ns3-a r9 4 -1\n")
    notes = repair.fix(segmented)
    assert data_dir.read_map(segmented / "segments") == {"s1-a": "r1 0 2", "s2-b": "r2 0.5 3"}
    assert "dropped 2 of 5 lines" in notes[0]
    write(segmented / "wav.scp", "r2 r2.wav\n")
    repair.fix(segmented)
    assert data_dir.read_map(segmented / "utt2spk") == {"s2-b": "s2"}
    assert data_dir.read_map(segmented / "reco2dur") == {"r2": "5.5"}
    validation.validate(segmented, feats=False, text=False)


def test_fix_drops_utterances_without_length_as_kaldi_does(plain):
    write(plain / "utt2num_frames", "s1-a 100\ns2-a 0\ns3-a 7\n")
    write(plain / "utt2dur", "s1-a 1.0\ns2-a 2\ns3-a 0\n")
    assert "utt2dur: dropped 1 of 3 lines" in " ".join(repair.fix(plain))
    assert data_dir.read_map(plain / "utt2spk") == {"s1-a": "s1"}
    assert validation.validate(plain) == 1


def test_fix_keeps_utterances_without_an_origin_or_a_warp(plain):
    write(plain / "utt2uniq", "s1-a x\nzz y\n")
    write(plain / "utt2warp", "s1-a 1.1\n")
    assert repair.fix(plain)[-1] == "kept all 5 utterances"
    assert data_dir.read_map(plain / "utt2uniq") == {
        "s1-a": "x", "s1-b": "s1-b", "s2-a": "s2-a", "s2-b": "s2-b", "s3-a": "s3-a",
    }  # fmt: skip
    assert not (plain / "utt2warp").exists() and (plain / ".backup/utt2warp").exists()
    assert validation.validate(plain) == 5


def test_fix_keeps_the_first_of_several_values(plain):
    write(plain / "utt2spk", (plain / "utt2spk").read_text() + "s1-a s2\n")
    assert "'s1-a'" in repair.fix(plain)[0]
    assert data_dir.read_map(plain / "utt2spk")["s1-a"] == "s1"
    assert validation.validate(plain) == 5


def test_fix_changes_nothing_if_no_utterance_is_left(plain):
    write(plain / "feats.scp", "zz /f:1\n")
    with pytest.raises(InputError, match="/plain: .* feats.scp, "):
        repair.fix(plain)
    assert (plain / "feats.scp").read_text() == "zz /f:1\n"
    assert len(data_dir.read_map(plain / "utt2spk")) == 5


EVERY_TABLE = {
    "utt2spk": "{speaker}",
    "wav.scp": "sox {recording}.mp3 -t wav - |",
    "text": "hello you",
    "feats.scp": "/f.ark:{index}",
    "vad.scp": "/v.ark:{index}",
    "utt2dur": "1.5",
    "utt2num_frames": "148",
    "utt2lang": "en",
    "utt2uniq": "{key}",
    "utt2warp": "1.1",
    "utt2max_frames": "200",
    "cmvn.scp": "/c.ark:{index}",
    "spk2gender": "f",
    "spk2warp": "0.9",
    "reco2dur": "10.25",
    "reco2file_and_channel": "{key} A",
    "reco2num_spk": "2",
    "segments": "{recording} {index} 9",
}
LINE_DAMAGES = (
    "", "0", "-1", "0.0", "nan", "inf", "1e999", "1_0", "x", "1 2", "12.5", "1.6", "m f", "\xe9", "a\rb", "a\tb", " z",
    "r1 2 1", "r1 x 3", "r9 0 1", "\x01 0 1", "\u0663", "\U0001f600",
)  # fmt: skip
WHOLE_LINES = (b"", b"\n", b"  \n", b"\x00 1\n", b"s1-b\x7f s1\n", b"zz zz\n", b"s1-a s2\n", b"\xff\xfe 1\n", b"s1-a\n")


def everything(directory, with_segments):
    """Make a directory with every table, of four speakers with two utterances each."""
    utterances = {f"s{speaker}-{name}": f"s{speaker}" for speaker in range(1, 5) for name in "ab"}
    recordings = {name: f"r{name[1]}" if with_segments else name for name in utterances}
    for name, value in EVERY_TABLE.items():
        if name == "segments" and not with_segments:
            continue
        ids = dict.fromkeys(utterances)
        if name in data_dir.SPEAKER_TABLES:
            ids = dict.fromkeys(utterances.values())
        elif name == "wav.scp" or name in data_dir.RECORDING_TABLES:
            ids = dict.fromkeys(recordings.values())
        rows = {
            key: value.format(key=key, index=index, speaker=utterances.get(key), recording=recordings.get(key, key))
            for index, key in enumerate(ids)
        }
        data_dir.write_map(directory / name, rows)
    data_dir.write_map(directory / "spk2utt", data_dir.spk2utt(utterances))


DAMAGE = st.one_of(
    st.tuples(st.just("value"), st.sampled_from(LINE_DAMAGES)),
    st.tuples(st.sampled_from(["before", "after"]), st.sampled_from(WHOLE_LINES)),
    st.tuples(st.just("remove"), st.none()),
    st.tuples(st.just("repeat"), st.none()),
    st.tuples(st.just("byte"), st.binary(min_size=1, max_size=1)),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    st.booleans(),
    st.lists(st.tuples(st.sampled_from(list(EVERY_TABLE)), st.integers(0, 7), DAMAGE), min_size=1, max_size=4),
    st.booleans(),
)
def test_after_fix_validate_passes(tmp_path, with_segments, damages, windows):
    with mock.patch("os.fsync"):  # which would take most of the time
        check_fix(tmp_path / "d", with_segments, damages, windows)


def check_fix(directory, with_segments, damages, windows):
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    everything(directory, with_segments)
    assert validation.validate(directory) == 8
    for name, number, (kind, what) in damages:
        path = directory / name
        if not path.exists():
            continue
        lines = path.read_bytes().splitlines(keepends=True)
        if not lines:
            continue
        number %= len(lines)
        if kind == "value":
            lines[number] = lines[number].split(b" ", 1)[0] + b" " + what.encode() + b"\n"
        elif kind == "byte":
            place = len(lines[number]) // 2
            lines[number] = lines[number][:place] + what + lines[number][place + 1 :]
        elif kind == "remove":
            del lines[number]
        elif kind == "repeat":
            lines.append(lines[number])
        else:
            lines.insert(number + (kind == "after"), what)
        path.write_bytes(b"".join(lines).replace(b"\n", b"\r\n" if windows and number == 3 else b"\n"))
    try:
        notes = repair.fix(directory)
    except InputError as error:  # a damaged speaker may leave only a table without any valid line
        assert "nothing was changed" in str(error)
        return
    number = validation.validate(directory, speaker_order=False)
    assert notes[-1].startswith((f"kept {number} utterances out of ", f"kept all {number} "))
    # Each damage concerns one line, so at most one speaker or recording: two utterances.
    assert number >= 8 - 2 * len(damages)
    assert repair.fix(directory) == [f"kept all {number} utterances"]


# subset, split, combine, copy, subsegment


def test_subset_keeps_what_belongs_to_its_utterances(segmented, tmp_path):
    write(segmented / "frame_shift", "0.0125\n")
    assert data_dir_ops.subset(segmented, tmp_path / "out", ["s2-b", "s1-a", "unknown"]) == 2
    out = tmp_path / "out"
    assert data_dir.read_map(out / "utt2spk") == {"s1-a": "s1", "s2-b": "s2"}
    assert data_dir.read_map(out / "wav.scp") == data_dir.read_map(segmented / "wav.scp")
    assert (out / "frame_shift").read_text() == "0.0125\n"
    data_dir_ops.subset(segmented, out, ["s2-b"])
    assert list(data_dir.read_map(out / "wav.scp")) == list(data_dir.read_map(out / "reco2dur")) == ["r2"]
    validation.validate(out, feats=False, text=False)
    with pytest.raises(InputError, match="/none: "):
        data_dir_ops.subset(segmented, tmp_path / "none", ["unknown"])


def test_split_never_splits_a_speaker_and_loses_nothing(plain):
    folder = data_dir_ops.split(plain, 2)
    assert folder == plain / "split2"
    parts = [data_dir.read_map(folder / str(number) / "utt2spk") for number in (1, 2)]
    assert not set(parts[0].values()) & set(parts[1].values())
    assert {**parts[0], **parts[1]} == data_dir.read_map(plain / "utt2spk")
    for number in (1, 2):
        validation.validate(folder / str(number))
    assert [len(part) for part in parts] == [2, 3]


def test_split_by_utterance(plain, segmented):
    folder = data_dir_ops.split(plain, 5, per_utterance=True)
    assert folder.name == "split5utt"
    assert [len(data_dir.read_map(folder / str(number) / "utt2spk")) for number in range(1, 6)] == [1] * 5
    folder = data_dir_ops.split(segmented, 5, per_utterance=True)
    assert [list(data_dir.read_map(folder / str(number) / "wav.scp")) for number in (3, 4)] == [["r1"], ["r2"]]


def test_split_is_repeated_only_if_the_directory_changed(plain):
    first = data_dir_ops.split(plain, 2) / "1" / "feats.scp"
    first.write_text("left alone\n")
    data_dir_ops.split(plain, 2)
    assert first.read_text() == "left alone\n"
    write(plain / "feats.scp", (plain / "feats.scp").read_text().replace("/feats.ark", "/new.ark"))
    data_dir_ops.split(plain, 2)
    assert first.read_text().startswith("s1-a /new.ark")
    (plain / "text").unlink()
    data_dir_ops.split(plain, 2)
    assert not (first.parent / "text").exists()


def test_split_into_too_many_parts(plain):
    with pytest.raises(InputError, match="/utt2spk .* 3 speakers.* 4 parts.*--per-utt"):
        data_dir_ops.split(plain, 4)
    with pytest.raises(InputError, match="5 utterances .*/plain .* 6 parts"):
        data_dir_ops.split(plain, 6, per_utterance=True)


def test_combine(plain, segmented, tmp_path):
    other = tmp_path / "other"
    derived_dirs.copy(plain, other, ("", "-n"))
    out = tmp_path / "out"
    assert derived_dirs.combine(out, [plain, other]) == []
    assert validation.validate(out) == 10
    uniq = data_dir.read_map(out / "utt2uniq")  # whoever has none is itself
    assert uniq["s1-a"] == uniq["s1-a-n"] == "s1-a"
    write(plain / "utt2dur", "s1-a 1\n")
    (note,) = derived_dirs.combine(out, [plain, other])
    assert "utt2dur" in note and str(other) in note
    (plain / "utt2dur").unlink()
    assert data_dir.read_lists(out / "spk2utt")["s3"] == ["s3-a", "s3-a-n"]

    # All lines of further files, also of equal keys; not of a file that a source lacks.
    write(other / "lang2utt", "eng s1-a-n\n")
    write(plain / "lang2utt", "fra s2-a\neng s1-a\n")
    write(plain / "utt2info", "s1-a x\n")
    notes = derived_dirs.combine(out, [plain, other], ["lang2utt", "feats.scp", "utt2info", "nosuch"])
    assert (out / "lang2utt").read_text() == "eng s1-a\neng s1-a-n\nfra s2-a\n"
    assert notes == [
        "not combining utt2info as it does not exist everywhere",
        "not combining nosuch as it does not exist anywhere",
    ]
    assert not (out / "utt2info").exists()


def test_combine_keeps_the_first_statistics_of_a_speaker(plain, tmp_path):
    other = tmp_path / "other"
    derived_dirs.copy(plain, other, ("", "-n"))
    for directory in (plain, other):
        data_dir.write_map(
            directory / "cmvn.scp", {name: f"{directory.name}.ark:{name[1]}" for name in ("s1", "s2", "s3")}
        )
    (note,) = derived_dirs.combine(tmp_path / "out", [other, plain])
    assert "cmvn.scp: 3 speakers" in note
    assert (tmp_path / "out/cmvn.scp").read_text() == "s1 other.ark:1\ns2 other.ark:2\ns3 other.ark:3\n"
    assert validation.validate(tmp_path / "out") == 10
    data_dir.write_map(other / "spk2gender", {"s1": "f", "s2": "m", "s3": "m"})
    with pytest.raises(InputError, match="plain/spk2gender: 's3' .*'f'.*'m'"):
        derived_dirs.combine(tmp_path / "out", [other, plain])


def test_combine_adds_segments_to_sources_without_them(plain, segmented, tmp_path):
    derived_dirs.copy(segmented, tmp_path / "s", ("", "-x"))
    write(plain / "utt2dur", "".join(f"{name} 3.25\n" for name in data_dir.read_map(plain / "utt2spk")))
    out = tmp_path / "out"
    derived_dirs.combine(out, [plain, tmp_path / "s"])
    assert validation.validate(out, feats=False, text=False) == 10
    segments = data_dir.read_segments(out / "segments")
    assert segments["s1-a"] == ("s1-a", 0, 3.25) and segments["s1-a-x"] == ("r1", 0, 2)
    (plain / "utt2dur").unlink()
    derived_dirs.combine(out, [plain, tmp_path / "s"])
    assert data_dir.read_segments(out / "segments")["s1-a"] == ("s1-a", 0, -1)


def test_combine_refuses_contradictions(plain, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(plain, other)
    derived_dirs.combine(tmp_path / "same", [plain, other])  # the same utterances twice are one
    assert validation.validate(tmp_path / "same") == 5
    write(other / "wav.scp", (other / "wav.scp").read_text().replace("/audio/s2-b", "/elsewhere/s2-b"))
    with pytest.raises(InputError, match="other/wav.scp: 's2-b' .*'/elsewhere/s2-b.wav'.*'/audio/s2-b.wav'"):
        derived_dirs.combine(tmp_path / "out", [plain, other])
    assert not (tmp_path / "out").exists()
    write(plain / "frame_shift", "0.01\n")
    shutil.copytree(plain, tmp_path / "slow")
    write(tmp_path / "slow/frame_shift", "0.02\n")
    with pytest.raises(InputError, match="frame shifts: 0.01 s in .*/plain, 0.02 s in .*/slow"):
        derived_dirs.combine(tmp_path / "out", [plain, tmp_path / "slow"])


def test_copy_renames_utterances_and_speakers(plain, segmented, tmp_path):
    out = tmp_path / "out"
    derived_dirs.copy(plain, out, ("p-", "-n"), ("p-", "-m"))
    assert data_dir.read_map(out / "utt2spk")["p-s2-a-n"] == "p-s2-m"
    assert data_dir.read_map(out / "utt2uniq")["p-s2-a-n"] == "s2-a"
    assert data_dir.read_map(out / "wav.scp")["p-s2-a-n"] == "/audio/s2-a.wav"
    assert data_dir.read_map(out / "spk2gender") == {"p-s1-m": "f", "p-s2-m": "m", "p-s3-m": "f"}
    validation.validate(out, speaker_order=False)
    derived_dirs.copy(segmented, out, ("", "-n"))
    assert data_dir.read_map(out / "segments")["s2-a-n"] == "r1 5 6.25"
    assert data_dir.read_map(out / "wav.scp") == data_dir.read_map(segmented / "wav.scp")
    assert not (out / "text").exists()  # of the directory that was there before
    validation.validate(out, feats=False, text=False)
    with pytest.raises(InputError, match="/plain: "):
        derived_dirs.copy(plain, f"{plain}/../plain")


def test_subsegment(plain, segmented, tmp_path):
    cuts = write(tmp_path / "subsegments", "s1-a-1 s1-a 0 0.5\ns1-a-2 s1-a 0.5 1.2\ns2-b-1 s2-b 0.252 0.617\n")
    out = tmp_path / "out"
    assert derived_dirs.subsegment(plain, cuts, out) == 3
    assert data_dir.read_map(out / "segments") == {
        "s1-a-1": "s1-a 0.000 0.500", "s1-a-2": "s1-a 0.500 1.200", "s2-b-1": "s2-b 0.252 0.617",
    }  # fmt: skip
    # Rounded to whole frames; the second ends with the features, which have 100 frames.
    assert data_dir.read_map(out / "feats.scp") == {
        "s1-a-1": "/feats.ark:0[0:49]", "s1-a-2": "/feats.ark:0[50:99]", "s2-b-1": "/feats.ark:3[25:61]",
    }  # fmt: skip
    assert list(data_dir.read_map(out / "wav.scp")) == ["s1-a", "s2-b"]
    assert data_dir.read_map(out / "utt2num_frames") == {"s1-a-1": "50", "s1-a-2": "50", "s2-b-1": "37"}
    assert data_dir.read_map(out / "utt2max_frames")["s1-a-2"] == "100"
    assert validation.validate(out, text=False) == 3

    derived_dirs.subsegment(segmented, cuts, out, write(tmp_path / "text", "s1-a-1 x\ns1-a-2 y\ns2-b-1 z\n"))
    assert data_dir.read_map(out / "segments")["s2-b-1"] == "r2 0.752 1.117"
    assert validation.validate(out, feats=False) == 3

    # A part of a row range.
    again = write(tmp_path / "again", "s1-a-2-x s1-a-2 0.1 0.3\n")
    derived_dirs.subsegment(plain, cuts, tmp_path / "once")
    derived_dirs.subsegment(tmp_path / "once", again, tmp_path / "twice")
    assert data_dir.read_map(tmp_path / "twice/feats.scp") == {"s1-a-2-x": "/feats.ark:0[60:79]"}
    assert data_dir.read_map(tmp_path / "twice/segments") == {"s1-a-2-x": "s1-a 0.600 0.800"}


@pytest.mark.parametrize(
    "line, message",
    [
        ("x nosuch 0 1", "subsegments:1: 'x' .*'nosuch'.*/utt2spk"),
        ("x s1-a 1 0.5", "subsegments:1: 'x' goes from 1 to 0.5 s"),
        ("x s1-a 1 -1", "subsegments:1: 'x' .*-1"),
        ("x s1-a 1.5 1.7", "subsegments:1: .*/feats.ark:0.* 1.5 to 1.7 s"),
    ],
)
def test_bad_subsegments(plain, tmp_path, line, message):
    with pytest.raises(InputError, match=message):
        derived_dirs.subsegment(plain, write(tmp_path / "subsegments", line + "\n"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_the_standard_library_is_imported():
    code = (
        "import sys, sdpn_k2.kaldi.datadir.data_dir_ops, sdpn_k2.kaldi.tools.script; sys.exit('numpy' in sys.modules)"
    )
    assert subprocess.run([shutil.which("python3"), "-c", code]).returncode == 0
