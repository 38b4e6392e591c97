"""Random and damaged tables: every reader returns values or raises one InputError, never another exception."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import sdpn_k2.kaldi.features.wave  # noqa: F401 (adds the kinds of waveforms)
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats.compression import compress
from sdpn_k2.kaldi.formats.tables import (
    HOLDERS,
    RandomReader,
    TableWriter,
    parse_rspecifier,
    parse_wspecifier,
    read_object,
    read_table,
    take_range,
)
from sdpn_k2.kaldi.formats.words import is_key
from sdpn_k2.kaldi.tools.command_line import STANDARD_OPTIONS, Option, parse

QUICK = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
BINARY_KINDS = [
    "vector",
    "double_vector",
    "matrix",
    "double_matrix",
    "general_matrix",
    "int_vector",
    "integers",
    "int",
    "float",
]
WORDS = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=8).filter(is_key)
PIECES = [
    b"a ",
    b"\n",
    b"\0B",
    b"FV ",
    b"DV ",
    b"FM ",
    b"DM ",
    b"CM ",
    b"CM2 ",
    b"CM3 ",
    b"\4",
    b"\4\1\0\0\0",
    b"\4\0\0\0\0",
    b"\xff\xff\xff\x7f",
    b"\xff\xff\xff\xff",
    b"\2\0\0\0",
    b"\0\0\x80\x3f",
    b" [ ",
    b"]",
    b"]\n",
    b"1 ",
    b"-2.5 ",
    b"nan ",
    b"x ",
    b"\t",
]
FLOATS = st.floats(width=32)


def values(kind):
    """Valid values of a kind."""
    if kind in ("matrix", "general_matrix"):
        return hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=FLOATS)
    if kind == "double_matrix":
        return hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9))
    if kind == "double_vector":
        return hnp.arrays(np.float64, st.integers(0, 20))
    if kind == "vector":
        return hnp.arrays(np.float32, st.integers(0, 20), elements=FLOATS)
    if kind in ("int_vector", "integers"):
        return st.lists(st.integers(-(2**31), 2**31 - 1), max_size=9)
    return st.integers(-(2**31), 2**31 - 1) if kind == "int" else FLOATS


def write(path, kind, entries, options=""):
    with TableWriter(f"ark{options}:{path}", kind) as writer:
        for key, value in entries:
            writer.write(key, value)


def read_everything(path, kind):
    """Read a table in every way; return the entries before the first error."""
    entries = []
    try:
        for entry in read_table(f"ark:{path}", kind):
            entries.append(entry)
    except InputError as error:
        assert "\n" not in str(error)
    permissive = list(read_table(f"ark,p:{path}", kind))
    assert len(permissive) == len(entries)
    for options in ("", ",s", ",s,cs", ",o,p"):
        try:
            RandomReader(f"ark{options}:{path}", kind).get("a")
        except InputError:
            pass
    for name in (str(path), f"{path}:2"):
        try:
            read_object(name, kind)
        except InputError:
            pass
    return entries


@pytest.mark.parametrize("kind", BINARY_KINDS)
def test_what_is_written_is_read(kind, tmp_path):
    @QUICK
    @given(st.lists(st.tuples(WORDS, values(kind)), max_size=5))
    def check(entries):
        write(tmp_path / "a", kind, entries)
        back = list(read_table(f"ark:{tmp_path}/a", kind))
        assert [key for key, _ in back] == [key for key, _ in entries]
        for (_, ours), (_, expected) in zip(back, entries):
            assert np.array_equal(ours, np.asarray(expected), equal_nan=kind not in ("int", "int_vector", "integers"))
        write(tmp_path / "t", kind, entries, ",t")
        for (_, ours), (_, expected) in zip(read_table(f"ark:{tmp_path}/t", kind), entries):
            assert np.allclose(ours, np.asarray(expected), rtol=1e-6, atol=1e-44, equal_nan=True)

    check()


@pytest.mark.parametrize("kind", sorted(HOLDERS))
def test_format_fragments_in_any_order(kind, tmp_path):
    path = tmp_path / "a"

    @QUICK
    @given(st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=5)), max_size=12))
    def check(pieces):
        path.write_bytes(b"".join(pieces))
        read_everything(path, kind)

    check()


@pytest.mark.parametrize("kind", BINARY_KINDS)
def test_damaged_archives(kind, tmp_path):
    path = tmp_path / "a"

    @QUICK
    @given(
        st.lists(values(kind), min_size=1, max_size=3),
        st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=3),
        st.integers(0, 2000),
        st.sampled_from(["", ",t"]),
    )
    def check(originals, changes, cut, options):
        write(path, kind, [(key, value) for key, value in zip("abc", originals)], options)
        data = bytearray(path.read_bytes())
        for place, byte in changes:
            data[place % len(data)] = byte
        path.write_bytes(data[: len(data) - cut % len(data)])
        read_everything(path, kind)

    check()


@QUICK
@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=FLOATS), st.integers(1, 7)
)
def test_any_matrix_is_compressed_or_refused(matrix, method):
    if not np.isfinite(matrix).all():
        with pytest.raises(InputError):
            compress(matrix, method)
        return
    if np.abs(matrix).max() > 1e37:
        return  # near the limit of float the header overflows, in Kaldi as well
    expanded = compress(matrix, method).to_array()
    assert expanded.shape == matrix.shape
    if method in (1, 2, 3, 5):
        spread = max(float(np.ptp(matrix.astype(np.float64))), 1e-30)
        step = {1: 64, 2: 64, 3: 65535, 5: 255}[method]
        assert (
            np.abs(expanded.astype(np.float64) - matrix).max() <= 1.01 * spread / step + 1e-6 * np.abs(matrix).max() + 1
        )


@QUICK
@given(st.text(max_size=20))
def test_specifiers_and_options(text):
    for function in (
        parse_rspecifier,
        parse_wspecifier,
        lambda value: parse((Option("a-b", 1, ""), *STANDARD_OPTIONS), [value]),
        lambda value: take_range(np.ones((3, 2)), value, "x"),
        lambda value: take_range(np.ones(3), value, "x"),
    ):
        for prefix in ("", "ark", "ark,scp:", "--a-b=", "0:", "1:2,"):
            try:
                function(prefix + text)
            except InputError as error:
                assert "\n" not in str(error).replace(text, "")


def test_script_files(tmp_path):
    @QUICK
    @given(st.binary(max_size=40))
    def check(data):
        (tmp_path / "a.scp").write_bytes(data.replace(b"|", b"/"))
        for reader in (
            lambda: list(read_table(f"scp:{tmp_path}/a.scp", "vector")),
            lambda: RandomReader(f"scp:{tmp_path}/a.scp", "vector").get("a"),
            lambda: list(read_table(f"scp,p:{tmp_path}/a.scp", "vector")),
        ):
            try:
                reader()
            except InputError:
                pass

    check()
