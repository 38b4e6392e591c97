"""Tables: against Kaldi's golden files, kaldi_native_io and kaldiio, and with every kind of damage."""

import os
import re
import stat
import threading
import tracemalloc

import kaldi_native_io as native
import kaldiio
import numpy as np
import pytest

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats.io import open_input, open_output, pipes_allowed
from sdpn_k2.kaldi.formats.tables import (
    RandomReader,
    TableWriter,
    is_table,
    load_vectors,
    parse_rspecifier,
    parse_wspecifier,
    read_object,
    read_table,
    write_object,
)

RNG = np.random.default_rng(0)
VECTORS = {f"utt{i}": RNG.normal(size=5 + i).astype(np.float32) for i in range(4)}
MATRICES = {f"utt{i}": RNG.normal(size=(2 + i, 3)).astype(np.float32) for i in range(4)}


def write(wspecifier, kind, entries, **options):
    with TableWriter(wspecifier, kind, **options) as writer:
        for key, value in entries.items():
            writer.write(key, value)


def same(first, second):
    return list(first) == list(second) and all(np.array_equal(first[key], second[key]) for key in first)


# Equality with others


def test_golden_vectors(golden, monkeypatch):
    monkeypatch.chdir(golden)
    binary = dict(read_table("scp:test.scp", "vector"))
    text = dict(read_table("ark:test.text.ark", "vector"))
    assert len(binary) == 240
    assert same(binary, dict(kaldiio.load_scp_sequential("test.scp")))
    assert all(np.allclose(binary[key], text[key], rtol=1e-6, atol=1e-7) for key in binary)


@pytest.mark.parametrize(
    "kind, type_name",
    [
        ("vector", "FloatVector"),
        ("double_vector", "DoubleVector"),
        ("matrix", "FloatMatrix"),
        ("double_matrix", "DoubleMatrix"),
    ],
)
@pytest.mark.parametrize("options", ["", ",t"])
def test_floats_round_trip_through_kaldi_native_io(tmp_path, kind, type_name, options):
    values = MATRICES if "matrix" in kind else VECTORS
    values = {key: value.astype(np.float64 if "double" in kind else np.float32) for key, value in values.items()}
    write(f"ark,scp{options}:{tmp_path}/ours.ark,{tmp_path}/ours.scp", kind, values)
    with getattr(native, type_name + "Writer")(
        f"ark,scp{options}:{tmp_path}/theirs.ark,{tmp_path}/theirs.scp"
    ) as writer:
        for key, value in values.items():
            writer.write(key, value)
    assert (tmp_path / "ours.ark").read_bytes() == (tmp_path / "theirs.ark").read_bytes()
    assert (tmp_path / "ours.scp").read_text() == (tmp_path / "theirs.scp").read_text().replace("theirs", "ours")
    with getattr(native, f"Sequential{type_name}Reader")(f"scp:{tmp_path}/ours.scp") as reader:
        theirs = {key: np.array(value) for key, value in reader}
    assert same(dict(read_table(f"scp:{tmp_path}/theirs.scp", kind)), theirs)
    if not options:
        assert same(theirs, values)


@pytest.mark.parametrize(
    "kind, type_name, values",
    [
        ("int_vector", "Int32Vector", {"a": [1, 2, 3], "b": [], "c": [-4]}),
        ("int", "Int32", {"a": 5, "b": -(2**31), "c": 2**31 - 1}),
        ("float", "Float", {"a": 1.5, "b": -0.1, "c": 3e30}),
        ("token", "Token", {"a": "x", "b": "spk-1"}),
        ("token_vector", "TokenVector", {"a": ["x", "y"], "b": ["z"]}),
    ],
)
@pytest.mark.parametrize("options", ["", ",t"])
def test_other_kinds_round_trip_through_kaldi_native_io(tmp_path, kind, type_name, values, options):
    write(f"ark{options}:{tmp_path}/ours", kind, values)
    with getattr(native, type_name + "Writer")(f"ark{options}:{tmp_path}/theirs") as writer:
        for key, value in values.items():
            writer.write(key, value)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    ours = {
        key: value.tolist() if kind == "int_vector" else value
        for key, value in read_table(f"ark:{tmp_path}/theirs", kind)
    }
    assert ours == pytest.approx(values) if kind == "float" else ours == values


def test_kaldiio_and_we_read_each_others_archives(tmp_path):
    write(f"ark,scp:{tmp_path}/a.ark,{tmp_path}/a.scp", "matrix", MATRICES)
    assert same(dict(kaldiio.load_scp_sequential(f"{tmp_path}/a.scp")), MATRICES)
    kaldiio.save_ark(f"{tmp_path}/b.ark", VECTORS, scp=f"{tmp_path}/b.scp")
    assert same(dict(read_table(f"scp:{tmp_path}/b.scp", "vector")), VECTORS)


def test_vectors_have_the_requested_float_type(golden):
    single = dict(read_table(f"ark:{golden}/double_vec.ark", "vector"))
    double = dict(read_table(f"ark:{golden}/double_vec.ark", "double_vector"))
    theirs = dict(kaldiio.load_ark(f"{golden}/double_vec.ark"))
    assert same(double, theirs)
    assert all(
        value.dtype == np.float32 and np.array_equal(value, theirs[key].astype(np.float32))
        for key, value in single.items()
    )


def test_many_vectors_of_changing_length_span_blocks(tmp_path):
    # The reader has a shortcut for vectors that look like the last one: change lengths and cross blocks.
    lengths = RNG.choice([0, 1, 256, 300], 5000, p=[0.01, 0.01, 0.97, 0.01])
    vectors = {f"{'k' * (i % 7 + 1)}{i}": RNG.normal(size=n).astype(np.float32) for i, n in enumerate(lengths)}
    write(f"ark,scp:{tmp_path}/a.ark,{tmp_path}/a.scp", "vector", vectors)
    for source in (f"ark:{tmp_path}/a.ark", f"ark:cat {tmp_path}/a.ark |", f"scp:{tmp_path}/a.scp"):
        assert same(dict(read_table(source, "vector")), vectors)


@pytest.mark.parametrize("kind", ["vector", "double_vector", "matrix", "int_vector", "token_vector"])
def test_large_values(tmp_path, kind):
    value = {
        "vector": RNG.normal(size=600_000).astype(np.float32),
        "double_vector": RNG.normal(size=600_000),
        "matrix": RNG.normal(size=(3000, 200)).astype(np.float32),
        "int_vector": RNG.integers(-1000, 1000, 600_000),
        "token_vector": [f"utt{i}" for i in range(300_000)],
    }[kind]
    small = value[:1]
    write(f"ark,scp:{tmp_path}/a.ark,{tmp_path}/a.scp", kind, {"a": small, "b": value, "c": small, "d": value})
    for source in (f"ark:{tmp_path}/a.ark", f"ark:cat {tmp_path}/a.ark |", f"scp:{tmp_path}/a.scp"):
        back = dict(read_table(source, kind))
        assert list(back) == ["a", "b", "c", "d"]
        assert (
            np.array_equal(back["b"], value) and np.array_equal(back["c"], small) and np.array_equal(back["d"], value)
        )
    data = (tmp_path / "a.ark").read_bytes()
    (tmp_path / "cut").write_bytes(data[:-5])
    if kind != "token_vector":
        with pytest.raises(InputError, match="cut short.*key d"):
            list(read_table(f"ark:{tmp_path}/cut", kind))


def test_read_values_are_writable_and_independent(tmp_path):
    write(f"ark:{tmp_path}/a", "vector", {"a": np.ones(3), "b": np.ones(3), "c": np.ones(3)})
    values = dict(read_table(f"ark:{tmp_path}/a", "vector"))
    for value in values.values():
        value += 1
    assert all(np.array_equal(value, [2, 2, 2]) for value in values.values())


def test_nan_and_infinity_pass_through(tmp_path):
    value = np.array([np.nan, np.inf, -np.inf, 1], np.float32)
    for options in ("", ",t"):
        write(f"ark{options}:{tmp_path}/a", "vector", {"a": value})
        assert np.array_equal(dict(read_table(f"ark:{tmp_path}/a", "vector"))["a"], value, equal_nan=True)


def test_keys_in_other_encodings_survive(tmp_path):
    keys = {"日本": np.ones(1), "caf\udce9": np.ones(2)}  # the second is Latin-1 on disk
    write(f"ark,scp:{tmp_path}/a.ark,{tmp_path}/a.scp", "vector", keys)
    assert b"caf\xe9 " in (tmp_path / "a.ark").read_bytes()
    assert list(dict(read_table(f"ark:{tmp_path}/a.ark", "vector"))) == list(keys)
    assert list(dict(read_table(f"scp:{tmp_path}/a.scp", "vector"))) == list(keys)


# Specifiers


def test_specifiers():
    assert parse_rspecifier("ark,s,cs:-")[1:] == ("-", None, {"s", "cs"})
    assert parse_rspecifier("s,ark:a b |")[1:] == ("a b |", None, {"s"})
    assert parse_rspecifier("scp,p,np,o,no,bg:a:b")[1:] == (None, "a:b", {"np", "no", "bg"})
    assert parse_rspecifier("ark,np,p,s,ns,s:a")[1:] == ("a", None, {"p", "s"})
    assert parse_wspecifier("ark,scp,t:a,b")[1:] == ("a", "b", {"t"})
    assert parse_wspecifier("scp,ark:a,b")[1:] == ("b", "a", frozenset())
    assert (
        is_table("ark:a")
        and is_table("scp,p:a")
        and not is_table("a.ark")
        and not is_table("a:3")
        and not is_table("-")
    )


@pytest.mark.parametrize(
    "parse, text",
    [
        (parse_rspecifier, "a.ark"),
        (parse_rspecifier, "ark,scp:a,b"),
        (parse_rspecifier, "ark,x:a"),
        (parse_rspecifier, "ark,f:a"),
        (parse_wspecifier, "-"),
        (parse_wspecifier, "ark,scp:a"),
        (parse_wspecifier, "ark,cs:a"),
        (parse_rspecifier, "s:a"),
    ],
)
def test_wrong_specifiers_are_refused(parse, text):
    with pytest.raises(InputError, match=text.split(":")[0]):
        parse(text)


# Script files


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # a failed native reader cannot be collected
def test_ranges_match_kaldi(tmp_path):
    write(f"ark,scp:{tmp_path}/a.ark,{tmp_path}/a.scp", "matrix", {"a": np.arange(30).reshape(10, 3)})
    place = (tmp_path / "a.scp").read_text().split()[1]
    for range_ in (
        "0:9",
        "2:4",
        "9:9",
        ":",
        ":,1:1",
        "0:0,0:2",
        "3:7,:",
        "0:10",
        "0:11",
        "0:12",
        "9:12",
        "0:13",
        "10:10",
        "3:2",
        "0:3,0:3",
        ",1:1",
        "1:2,",
        "",
        "1",
        "a:b",
        "-1:2",
        "0:1,0:1,0:1",
    ):
        (tmp_path / "b.scp").write_text(f"a {place}[{range_}]\n")
        try:
            with native.SequentialFloatMatrixReader(f"scp:{tmp_path}/b.scp") as reader:
                theirs = {key: np.array(value) for key, value in reader}
        except RuntimeError:
            with pytest.raises(InputError, match="key a"):
                dict(read_table(f"scp:{tmp_path}/b.scp", "matrix"))
        else:
            assert same(dict(read_table(f"scp:{tmp_path}/b.scp", "matrix")), theirs), range_
            assert np.array_equal(read_object(f"{place}[{range_}]", "matrix"), theirs["a"])


def test_range_beyond_the_end_warns(tmp_path, capfd):
    write(f"ark,scp:{tmp_path}/a.ark,{tmp_path}/a.scp", "vector", {"a": np.arange(10)})
    place = (tmp_path / "a.scp").read_text().split()[1]
    assert len(read_object(f"{place}[0:11]", "vector")) == 10
    assert "0:11" in capfd.readouterr().err
    with pytest.raises(InputError, match=r"0:40"):
        read_object(f"{place}[0:40]", "vector")


def test_script_lines_may_be_files_commands_and_offsets(tmp_path):
    write(f"ark,scp:{tmp_path}/a.ark,{tmp_path}/a.scp", "vector", VECTORS)
    places = dict(line.split() for line in (tmp_path / "a.scp").read_text().splitlines())
    write_object(f"{tmp_path}/alone", VECTORS["utt1"], "vector", binary=False)
    (tmp_path / "b.scp").write_text(
        f"utt3\t {places['utt3']} \nutt0 {places['utt0']}\nutt1 {tmp_path}/alone\n"
        f"utt2 tail -c +1 {tmp_path}/alone | cat |\n"
    )
    values = dict(read_table(f"scp:{tmp_path}/b.scp", "vector"))
    assert list(values) == ["utt3", "utt0", "utt1", "utt2"]
    assert np.array_equal(values["utt3"], VECTORS["utt3"]) and np.array_equal(values["utt0"], VECTORS["utt0"])
    assert np.allclose(values["utt2"], VECTORS["utt1"])


def test_permissive_script_skips_what_is_broken(tmp_path, capfd):
    write(f"ark,scp:{tmp_path}/a.ark,{tmp_path}/a.scp", "vector", VECTORS)
    lines = (tmp_path / "a.scp").read_text().splitlines()
    lines[1] = f"utt1 {tmp_path}/missing"
    lines[2] = lines[2] + "0"  # an offset beyond the end
    (tmp_path / "b.scp").write_text("\n".join(lines))
    with pytest.raises(InputError, match="missing.*utt1"):
        list(read_table(f"scp:{tmp_path}/b.scp", "vector"))
    assert [key for key, _ in read_table(f"scp,p:{tmp_path}/b.scp", "vector")] == ["utt0", "utt3"]
    error = capfd.readouterr().err
    assert error.count("WARNING") == 2 and "utt1" in error and "utt2" in error


@pytest.mark.parametrize("offset", ["9" * 18, "9" * 19, "9" * 5000])
def test_offsets_beyond_any_file(tmp_path, offset):
    write(f"ark,scp:{tmp_path}/a.ark,{tmp_path}/a.scp", "vector", VECTORS)
    with open(tmp_path / "a.scp", "a") as stream:
        stream.write(f"zzz {tmp_path}/a.ark:{offset}\n")
    with pytest.raises(InputError, match="key zzz"):
        list(read_table(f"scp:{tmp_path}/a.scp", "vector"))
    with pytest.raises(InputError, match="key zzz"):
        RandomReader(f"scp:{tmp_path}/a.scp", "vector")["zzz"]


def test_malformed_script_names_the_line(tmp_path):
    (tmp_path / "a.scp").write_text("utt0 x:1\n\nutt2 y\n")
    with pytest.raises(InputError, match="line 2"):
        RandomReader(f"scp:{tmp_path}/a.scp", "vector")


# Damage


def archive(tmp_path, options=""):
    write(f"ark{options}:{tmp_path}/whole", "vector", VECTORS)
    return (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("options", ["", ",t"])
def test_archive_cut_at_any_byte(tmp_path, capfd, options):
    data = archive(tmp_path, options)
    starts = [data.index(key.encode()) for key in VECTORS] + [len(data)]
    cut = tmp_path / "cut"
    for size in range(len(data)):
        cut.write_bytes(data[:size])
        complete = sum(start <= size for start in starts[1:])
        if options and size + 1 in starts[1:]:
            complete += 1  # only the line end after the ] is missing
        keys = []
        try:
            for key, value in read_table(f"ark:{cut}", "vector"):
                keys.append(key)
                assert np.allclose(value, VECTORS[key])
            assert size in starts or (options and size + 1 in starts)
        except InputError as error:
            assert f"{cut}: byte " in str(error)
            if size > starts[complete] + len("uttN "):
                assert f"key utt{complete}, which starts at byte {starts[complete]}" in str(error)
        assert keys == list(VECTORS)[:complete]
        assert len(dict(read_table(f"ark,p:{cut}", "vector"))) == complete
    assert "the table is empty" in capfd.readouterr().err


@pytest.mark.parametrize(
    "kind, header",
    [
        ("vector", b"\0BFV \4\xff\xff\xff\x7f"),
        ("vector", b"\0BDV \4\xff\xff\xff\x7f"),
        ("matrix", b"\0BFM \4\xff\xff\xff\x7f\4\xff\xff\xff\x7f"),
        ("matrix", b"\0BCM \0\0\0\0\0\0\x80\x3f\xff\xff\xff\x7f\xff\xff\xff\x7f"),
        ("matrix", b"\0BCM2 \0\0\0\0\0\0\x80\x3f\xff\xff\xff\x7f\1\0\0\0"),
        ("int_vector", b"\0B\4\xff\xff\xff\x7f"),
        ("integers", b"\0B\4\xff\xff\xff\x7f"),
    ],
)
@pytest.mark.parametrize("source", ["{}", "cat {} |"])
def test_forged_sizes_take_no_memory(tmp_path, kind, header, source):
    path = tmp_path / "forged"
    path.write_bytes(b"utt7 " + header + b"x" * 3_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="utt7.*byte 0"):
            list(read_table("ark:" + source.format(path), kind))
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "kind, data",
    [
        ("vector", b"\0BFV \4\xff\xff\xff\xff"),
        ("vector", b"\0BFV \x08\1\0\0\0aaaa"),
        ("vector", b"\0BFM \4\1\0\0\0\4\1\0\0\0aaaa"),
        ("vector", b"\0XFV \4\1\0\0\0aaaa"),
        ("vector", b"1 2 3\n"),
        ("vector", b" [ 1 2 x ]\n"),
        ("vector", b" [ 1 1_0 ]\n"),
        ("matrix", b"\0BFV \4\1\0\0\0aaaa"),
        ("matrix", b"\0BFM \4\xff\xff\xff\xff\4\1\0\0\0"),
        ("matrix", b" [\n 1 2\n 3 ]\n"),
        ("matrix", b"\0BFM \4\5\0\0\0\4\0\0\0\0"),
        ("matrix", b"\0BDM \4\0\0\0\0\4\5\0\0\0"),
        ("matrix", b"\0BCM2 \0\0\0\0\0\0\x80\x3f\0\0\0\0\5\0\0\0"),
        ("general_matrix", b"\0BCM \0\0\0\0\0\0\x80\x3f\5\0\0\0\0\0\0\0"),
        ("vector", b" [\n 1 2\n 3 4 ]\n"),
        ("matrix", b"\0BCM4 \0\0\0\0\0\0\0\0\1\0\0\0\1\0\0\0"),
        ("int_vector", b"1 2.5\n"),
        ("int_vector", b"99999999999\n"),
        ("int_vector", b"\0B\4\1\0\0\0\x08aaaa"),
        ("int", b"5 6\n"),
        ("int", b"\n"),
        ("int", b"1"),  # the archive may be cut within a number
        ("int", b"1 "),
        ("float", b"1.5"),
        ("token", b"a b\n"),
        ("token", b"a"),
        ("token", b"\n"),
    ],
)
def test_wrong_content_names_key_and_place(tmp_path, kind, data):
    (tmp_path / "a").write_bytes(b"utt7 " + data)
    with pytest.raises(InputError, match="byte.*utt7"):
        list(read_table(f"ark:{tmp_path}/a", kind))


def test_blanks_between_entries(tmp_path):
    (tmp_path / "a").write_bytes(b"\n" * 200_000 + b"a [ 1 ]" + b" " * 200_000 + b"b [ 2 ]\n" + b" " * 200_000)
    assert {key: value.tolist() for key, value in read_table(f"ark:{tmp_path}/a", "vector")} == {"a": [1], "b": [2]}
    assert list(read_table(f"ark:cat {tmp_path}/a |", "vector"))[1][0] == "b"


def test_other_files_are_not_archives(tmp_path):
    (tmp_path / "a").write_bytes(b"\0BFV \4\1\0\0\0aaaa")  # a vector without a key
    with pytest.raises(InputError, match=f"{tmp_path}/a: byte 0: .*archive"):
        list(read_table(f"ark:{tmp_path}/a", "vector"))
    (tmp_path / "a").write_bytes(b"x" * 1_000_000)
    with pytest.raises(InputError, match=f"{tmp_path}/a: byte 0: .*archive"):
        list(read_table(f"ark:{tmp_path}/a", "vector"))
    with pytest.raises(InputError, match="nosuch"):
        list(read_table(f"ark:{tmp_path}/nosuch", "vector"))
    with pytest.raises(InputError, match="Is a directory"):
        list(read_table(f"ark:{tmp_path}", "vector"))


def test_mixed_dimensions_in_one_array(tmp_path, capfd):
    write(f"ark:{tmp_path}/a", "vector", {"a": np.ones(3), "b": np.ones(3), "c": np.ones(4), "d": np.zeros(3)})
    with pytest.raises(InputError, match=f"{tmp_path}/a: byte 48: key c: 4 "):
        load_vectors(f"ark:{tmp_path}/a")
    keys, vectors = load_vectors(f"ark,p:{tmp_path}/a")
    assert keys == ["a", "b", "d"] and vectors.shape == (3, 3) and vectors.dtype == np.float32
    assert "key c" in capfd.readouterr().err
    (tmp_path / "a").write_bytes(b"")
    assert load_vectors(f"ark:{tmp_path}/a")[1].shape == (0, 0)


# Reading by key


def test_random_reading(tmp_path):
    write(f"ark,scp:{tmp_path}/a.ark,{tmp_path}/a.scp", "vector", VECTORS)
    for source in (
        "ark:{}.ark",
        "ark,s:{}.ark",
        "ark,s,cs:{}.ark",
        "ark,o:{}.ark",
        "ark,s,o:{}.ark",
        "scp:{}.scp",
        "scp,s,cs:{}.scp",
    ):
        with RandomReader(source.format(tmp_path / "a"), "vector") as reader:
            for key in ("utt0", "utt0x", "utt2", "utt3", "vtt"):
                assert (key in reader) == (key in VECTORS)
                if key in VECTORS:
                    assert np.array_equal(reader[key], VECTORS[key])
                else:
                    assert reader.get(key) is None
                    with pytest.raises(KeyError):
                        reader[key]


def test_unsorted_reading_keeps_everything(tmp_path):
    write(f"ark:{tmp_path}/a", "vector", dict(reversed(list(VECTORS.items()))))
    with RandomReader(f"ark:{tmp_path}/a", "vector") as reader:
        for key in ("utt2", "utt0", "utt3", "utt2"):
            assert np.array_equal(reader[key], VECTORS[key])


def test_sorted_reading_streams(tmp_path):
    # Nothing after the last requested key is read.
    (tmp_path / "a").write_bytes(archive(tmp_path) + b"broken \0Bxx")
    for options in ("s", "s,cs"):
        with RandomReader(f"ark,{options}:{tmp_path}/a", "vector") as reader:
            assert np.array_equal(reader["utt1"], VECTORS["utt1"])
    with pytest.raises(InputError, match="key broken"):
        RandomReader(f"ark:{tmp_path}/a", "vector").get("utt1")


def test_sorted_reading_goes_back_without_cs(tmp_path):
    archive(tmp_path)
    reader = RandomReader(f"ark,s:{tmp_path}/whole", "vector")
    assert "utt3" in reader and np.array_equal(reader["utt0"], VECTORS["utt0"])
    reader = RandomReader(f"ark,s,cs:{tmp_path}/whole", "vector")
    assert "utt3" in reader
    with pytest.raises(InputError, match="utt0 .*utt3"):
        reader.get("utt0")


def test_broken_promises_and_duplicates(tmp_path):
    (tmp_path / "a").write_text("b x\na y\n")
    with pytest.raises(InputError, match="a .*after b"):
        RandomReader(f"ark,s:{tmp_path}/a", "token").get("c")
    for name, source in (("ark", "a 1\nb 2\na 3\n"), ("scp", "a x:1\nb y:2\na z:3\n")):
        (tmp_path / "a").write_text(source)
        with pytest.raises(InputError, match="key a"):
            RandomReader(f"{name}:{tmp_path}/a", "token").get("b")
    (tmp_path / "a").write_text("a 1\na 3\n")
    with pytest.raises(InputError, match="key a .*after a"):
        RandomReader(f"ark,s,cs:{tmp_path}/a", "token").get("b")
    assert [value for _, value in read_table(f"ark:{tmp_path}/a", "token")] == ["1", "3"]


def test_random_permissive(tmp_path, capfd):
    write(f"ark,scp:{tmp_path}/a.ark,{tmp_path}/a.scp", "vector", VECTORS)
    (tmp_path / "b.scp").write_text((tmp_path / "a.scp").read_text().replace("utt1 ", "utt1 /nosuch"))
    assert "utt1" in RandomReader(f"scp:{tmp_path}/b.scp", "vector")
    reader = RandomReader(f"scp,p:{tmp_path}/b.scp", "vector")
    assert "utt1" not in reader and np.array_equal(reader["utt2"], VECTORS["utt2"])
    assert "/nosuch" in capfd.readouterr().err


def test_key_map(tmp_path):
    archive(tmp_path)
    (tmp_path / "utt2spk").write_text("x1 utt1\nx2 utt2\nx3 nobody\n")
    reader = RandomReader(f"ark:{tmp_path}/whole", "vector", key_map=f"ark:{tmp_path}/utt2spk")
    assert np.array_equal(reader["x2"], VECTORS["utt2"]) and "x3" not in reader and "utt1" not in reader


# Writing


def test_failure_leaves_nothing(tmp_path):
    (tmp_path / "old.ark").write_text("old")
    with pytest.raises(ZeroDivisionError):
        with TableWriter(f"ark,scp:{tmp_path}/old.ark,{tmp_path}/new.scp", "vector") as writer:
            writer.write("a", np.ones(500_000))
            raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["old.ark"] and (tmp_path / "old.ark").read_text() == "old"
    with pytest.raises(InputError, match="no/such/folder"), TableWriter(f"ark:{tmp_path}/no/such/folder", "vector"):
        pass
    for value in (np.ones((2, 2)), np.ones(())):
        with pytest.raises(InputError, match="key a: .*vector"):
            write(f"ark:{tmp_path}/x", "vector", {"a": value})
    with pytest.raises(InputError, match="key a: .*float64"):
        write(f"ark:{tmp_path}/x", "int_vector", {"a": [1.5]})
    for key in ("", "a b", "a\tb", "a\n", "\n"):
        with pytest.raises(InputError, match=re.escape(repr(key))):
            write(f"ark:{tmp_path}/x", "vector", {key: np.ones(2)})
    assert os.listdir(tmp_path) == ["old.ark"]


def test_writing_follows_links_and_devices(tmp_path):
    (tmp_path / "storage").mkdir()
    (tmp_path / "a.ark").symlink_to(tmp_path / "storage" / "a.ark")
    write(f"ark:{tmp_path}/a.ark", "vector", VECTORS)
    assert (tmp_path / "a.ark").is_symlink() and (tmp_path / "storage" / "a.ark").is_file()
    write("ark:/dev/null", "vector", VECTORS)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    os.mkfifo(tmp_path / "fifo")
    received = []
    thread = threading.Thread(target=lambda: received.append((tmp_path / "fifo").read_bytes()))
    thread.start()
    write(f"ark:{tmp_path}/fifo", "vector", VECTORS)
    thread.join()
    assert received == [(tmp_path / "a.ark").read_bytes()]


def test_flush_option(tmp_path):
    reading, writing = os.pipe()
    try:
        with TableWriter(f"ark,f,t:/dev/fd/{writing}", "int") as writer:
            writer.write("a", 1)
            assert os.read(reading, 100) == b"a 1 \n"
    finally:
        os.close(reading)
        os.close(writing)


def test_writing_to_the_files_of_a_script(tmp_path):
    (tmp_path / "out.scp").write_text(f"a {tmp_path}/a.vec\nb {tmp_path}/b.vec\n")
    with pytest.raises(InputError, match="key c .*script"):
        write(f"scp:{tmp_path}/out.scp", "vector", {"a": np.ones(2), "c": np.ones(2)})
    write(f"scp,p,t:{tmp_path}/out.scp", "vector", {"a": np.ones(2), "c": np.ones(2), "b": np.zeros(1)})
    assert (tmp_path / "a.vec").read_text() == " [ 1 1 ]\n" and (tmp_path / "b.vec").read_text() == " [ 0 ]\n"
    assert list(dict(read_table(f"scp:{tmp_path}/out.scp", "vector"))) == ["a", "b"]


# Pipes


def test_pipes(tmp_path, monkeypatch):
    archive(tmp_path)
    write(f"ark:| cat > {tmp_path}/copy", "vector", VECTORS)
    assert same(dict(read_table(f"ark:cat {tmp_path}/copy | cat |", "vector")), VECTORS)
    for command in (f"cat {tmp_path}/whole; exit 3 |", f"(cat {tmp_path}/whole; exit 3) | cat |"):
        with pytest.raises(InputError, match="exit status 3"):
            list(read_table(f"ark:{command}", "vector"))
    for command in ("| exit 4", "| head -c 1 > /dev/null; exit 4", "| (cat; exit 4) | cat > /dev/null"):
        with pytest.raises(InputError, match="exit status 4"):
            write(f"ark:{command}", "vector", {str(i): np.ones(1000) for i in range(2000)})
    # A reader that stops early, such as head, is not a failure.
    assert read_object("yes ' [ 1 2 ]' | head -n 3 |", "vector").tolist() == [1, 2]
    assert read_object("yes ' [ 1 2 ]' |", "vector").tolist() == [1, 2]
    with pytest.raises(InputError, match="ALLOW_PIPES"), pipes_allowed(False):
        list(read_table(f"ark:cat {tmp_path}/copy |", "vector"))
    (tmp_path / "evil.scp").write_text(f"a touch {tmp_path}/touched; cat {tmp_path}/copy |\n")
    for word in ("off", "false"):
        monkeypatch.setenv("SDPN_K2_ALLOW_PIPES", word)
        with pytest.raises(InputError, match="ALLOW_PIPES"):
            list(read_table(f"scp:{tmp_path}/evil.scp", "vector"))
    with pytest.raises(InputError, match="ALLOW_PIPES"):
        write(f"ark:| touch {tmp_path}/touched", "vector", VECTORS)
    assert not (tmp_path / "touched").exists()


def test_invalid_extended_filenames_are_refused(tmp_path):
    for name in ("| cat", " a", "a "):
        with pytest.raises(InputError, match=re.escape(repr(name))):
            open_input(name)
    for name in ("cat |", " a", f"{tmp_path}/a:3"):
        with pytest.raises(InputError, match=re.escape(repr(name))), open_output(name):
            pass


@pytest.mark.parametrize("order", ["as written", "shuffled", "every third"])
def test_script_file_of_vectors_of_several_kinds(tmp_path, order):
    """Vectors in memory are taken as rows: lengths, types and keys of any length must not get mixed up."""
    rng = np.random.default_rng(0)
    vectors = {}
    for number in range(900):
        kind = np.float64 if 300 <= number < 400 else np.float32
        vectors[f"k{'x' * int(rng.integers(0, 9))}{number}"] = rng.standard_normal(3 + number // 450).astype(kind)
    vectors["empty"] = np.zeros(0, np.float32)
    kaldiio.save_ark(str(tmp_path / "v.ark"), vectors, scp=str(tmp_path / "v.scp"))
    lines = (tmp_path / "v.scp").read_text().splitlines()
    lines = {"shuffled": list(rng.permutation(lines)), "every third": lines[::3]}.get(order, lines)
    lines.insert(7, f"again {lines[200].split()[1]}")
    (tmp_path / "v.scp").write_text("\n".join(lines))
    expected = {line.split()[0]: vectors[line.split()[0]] for line in lines if not line.startswith("again")}
    found = dict(read_table(f"scp:{tmp_path}/v.scp", "vector"))
    np.testing.assert_array_equal(found.pop("again"), vectors[lines[201].split()[0]].astype(np.float32))
    assert list(found) == list(expected)
    for key, vector in found.items():
        np.testing.assert_array_equal(vector, expected[key].astype(np.float32))
        assert vector.dtype == np.float32 and vector.flags.writeable


@pytest.mark.parametrize(
    "lines", [[["a x.ark:1", "b x.ark:2 y.ark:3"]], [["a x.ark:1", "b y.ark:1"]], [["a x:" + "1" * 19]]]
)
def test_names_that_look_like_offsets_only(tmp_path, lines):
    (tmp_path / "x.scp").write_text("\n".join(lines[0]) + "\n")
    with pytest.raises(InputError, match="x"):
        dict(read_table(f"scp:{tmp_path}/x.scp", "vector"))


def test_large_matrices_are_written_as_they_are_now(tmp_path):
    """A caller may use its array again after write()."""
    rng = np.random.default_rng(0)
    large, expected = rng.standard_normal((300, 100)).astype(np.float32), {}
    with TableWriter(f"ark,scp:{tmp_path}/m.ark,{tmp_path}/m.scp", "matrix") as writer:
        for key, matrix in (("a", large), ("b", large[:2]), ("c", large), ("d", large.T), ("e", large[:, ::2])):
            writer.write(key, matrix)
            expected[key] = matrix.copy()
            large += 1
    for found in (kaldiio.load_scp(str(tmp_path / "m.scp")), dict(kaldiio.load_ark(str(tmp_path / "m.ark")))):
        assert list(found) == list(expected)
        for key, matrix in expected.items():
            np.testing.assert_array_equal(found[key], matrix)
