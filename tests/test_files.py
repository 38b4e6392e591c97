"""Output files: complete or not at all, through links, and straight into FIFOs and devices."""

import os
import stat
import threading

import pytest

from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output


@pytest.mark.parametrize("mode, content", [("w", "é\n"), ("wb", b"\xff")])
def test_a_file_keeps_its_content_until_the_new_one_is_complete(tmp_path, mode, content):
    path = tmp_path / "x"
    path.write_text("old\n")
    with pytest.raises(ZeroDivisionError), atomic_output(path, mode) as stream:
        stream.write(content)
        raise ZeroDivisionError
    assert path.read_text() == "old\n" and os.listdir(tmp_path) == ["x"]
    with atomic_output(path, mode) as stream:
        stream.write(content)
    assert path.read_bytes() == (content.encode() if mode == "w" else content) and os.listdir(tmp_path) == ["x"]


def test_links_are_followed(tmp_path):
    (tmp_path / "storage").mkdir()
    (tmp_path / "x").symlink_to("storage/x")
    for text in ("one", "two"):
        with atomic_output(tmp_path / "x", "w") as stream:
            stream.write(text)
        assert (tmp_path / "x").is_symlink() and (tmp_path / "storage" / "x").read_text() == text


@pytest.mark.parametrize("linked", [False, True])
def test_fifos_are_written_directly(tmp_path, linked):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (tmp_path / "link").symlink_to("fifo")
    received = []
    thread = threading.Thread(target=lambda: received.append(fifo.read_text()), daemon=True)
    thread.start()
    with atomic_output(tmp_path / "link" if linked else fifo, "w") as stream:
        stream.write("a b 1\n")
    thread.join(10)
    assert received == ["a b 1\n"] and stat.S_ISFIFO(os.stat(fifo).st_mode)


def test_a_descriptor_is_written_directly():
    reading, writing = os.pipe()
    try:
        with atomic_output(f"/dev/fd/{writing}") as stream:
            stream.write(b"a b 1\n")
        assert os.read(reading, 100) == b"a b 1\n"
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("name, message", [("none/x", "No such file"), (".", "Is a directory")])
def test_unwritable_files_are_named(tmp_path, name, message):
    with pytest.raises(InputError, match=f"{name}: .*{message}"), atomic_output(f"{tmp_path}/{name}"):
        pass
