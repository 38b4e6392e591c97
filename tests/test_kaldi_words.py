"""Keys and words with blanks that are none to Kaldi: U+3000, U+00A0, U+0085 and the separators of ASCII."""

import shutil
import subprocess

import kaldi_native_io as native
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kaldi_support import ROOT, shell, succeed

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats import words
from sdpn_k2.kaldi.formats.tables import TableWriter, read_table

BLANKS = ["\u3000", "\u00a0", "\u0085", "\u2028"]


@given(st.text(alphabet=st.sampled_from("ab \t\n\v\f\r\x1c\x1f\x85\xa0\u3000\u2028\udcff"), max_size=12))
def test_words_are_those_of_bytes(text):
    data = text.encode("utf-8", "surrogateescape")
    assert [word.encode("utf-8", "surrogateescape") for word in words.split(text)] == data.split()
    assert [word.encode("utf-8", "surrogateescape") for word in words.split(text, 1)] == data.split(None, 1)
    assert words.strip(text).encode("utf-8", "surrogateescape") == data.strip()


def test_keys_are_those_that_kaldi_writes(tmp_path):
    for key in ["a", "ab-1", "\u3000a", "a\u00a0", "a\x85b", "a b", "a\tb", "a\x1cb", "a\x7f", "", "\u4e2d"]:
        try:
            with native.FloatVectorWriter(f"ark:{tmp_path}/theirs") as writer:
                writer.write(key, np.ones(2, np.float32))
            accepted = True
        except RuntimeError:
            accepted = False
        assert words.is_key(key) == accepted, repr(key)
        try:
            with TableWriter(f"ark:{tmp_path}/ours", "vector") as writer:
                writer.write(key, np.ones(2))
            assert accepted and [key for key, _ in read_table(f"ark:{tmp_path}/ours", "vector")] == [key]
        except InputError:
            assert not accepted


@pytest.mark.parametrize("blank", BLANKS)
def test_tools_and_scripts_keep_unicode_blanks_in_ids(blank, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    key = f"spk1-{blank}a"
    (tmp_path / "v").write_text(f"{key} [ 1 2 ]\n", encoding="utf-8")
    (tmp_path / "utt2spk").write_text(f"{key} spk1\n", encoding="utf-8")
    (tmp_path / "spk2utt").write_text(f"spk1 {key}\n", encoding="utf-8")
    (tmp_path / "num_utts").write_text("spk1 1\n", encoding="utf-8")
    (tmp_path / "segments").write_text(f"{key} r{blank}1 0 1\n", encoding="utf-8")
    (tmp_path / "wav.scp").write_text(f"r{blank}1 {tmp_path}/r.wav\n", encoding="utf-8")
    succeed("copy-vector ark:v ark,scp:v.ark,v.scp", tmp_path)
    assert [key for key, _ in read_table(f"scp:{tmp_path}/v.scp", "vector")] == [key]
    with native.SequentialFloatVectorReader(f"scp:{tmp_path}/v.scp") as reader:
        assert [key for key, _ in reader] == [key]
    means = shell("ivector-mean ark:spk2utt scp:v.scp ark,t:- | copy-vector ark:- ark,t:-", tmp_path).stdout
    assert means == "spk1  [ 1 2 ]\n"
    (tmp_path / "v").unlink()
    for name in ("num_utts", "v.ark", "v.scp"):
        (tmp_path / name).unlink()
    for script in ("fix_data_dir.sh .", "validate_data_dir.sh --no-feats --no-text .", "copy_data_dir.sh . ../copy"):
        result = shell(f"{ROOT}/utils/{script}", tmp_path)
        assert result.returncode == 0, result.stderr
    copied = (tmp_path.parent / "copy" / "segments").read_bytes()
    assert copied == f"{key} r{blank}1 0 1\n".encode()
    shutil.rmtree(tmp_path.parent / "copy")


def test_launchers_do_not_quote_words_with_unicode_blanks(tmp_path):
    result = subprocess.run([ROOT / "utils/run.pl", "x.log", "echo", "a\u3000b", "c d"], cwd=tmp_path)
    assert result.returncode == 0
    assert '# echo a\u3000b "c d"' in (tmp_path / "x.log").read_text(encoding="utf-8")
