"""Output files: complete or not at all, through links, and straight into FIFOs and devices."""

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_folder, atomic_output, locked, write_together

ROOT = Path(__file__).resolve().parents[1]


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


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


@pytest.mark.parametrize("exists", [False, True])
def test_folders_are_complete_or_absent(tmp_path, exists):
    path = tmp_path / "a" / "folder"
    if exists:
        path.mkdir(parents=True)
    with pytest.raises(ZeroDivisionError), atomic_folder(path) as temporary:
        (temporary / "x").write_text("1")
        raise ZeroDivisionError
    assert [item.name for item in path.parent.iterdir()] == ["folder"] * exists and not any(path.glob("*"))
    with atomic_folder(path) as first, atomic_folder(path.with_name("other")) as second:
        assert first.parent == second.parent == path.parent and first != second
        (first / "x").write_text("2")
    assert (path / "x").read_text() == "2"
    assert path.stat().st_mode == path.parent.stat().st_mode
    assert sorted(item.name for item in path.parent.iterdir()) == ["folder", "other"]


def test_folders_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    for name in ("file", "full"):
        with pytest.raises(InputError, match=f"{tmp_path}/{name}: cannot write this folder: "):
            with atomic_folder(tmp_path / name):
                pass


@pytest.mark.parametrize("make", [atomic_output, atomic_folder])
def test_the_next_run_removes_what_killed_ones_left(tmp_path, make):
    script = (
        "import os, signal, sys; from sdpn_k2.files import atomic_output, atomic_folder\n"
        "with globals()[sys.argv[1]](sys.argv[2]) as made:\n"
        "    (made / 'x').write_text('old') if hasattr(made, 'joinpath') else made.write(b'old') and made.flush()\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    path = tmp_path / "data"
    command = [sys.executable, "-c", script, make.__name__, str(path)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == b"ready\n"
    assert len(os.listdir(tmp_path)) == 2
    processes[0].kill()
    processes[0].wait()
    with make(path) as made:
        left = sorted(os.listdir(tmp_path))
        assert len(left) == 2, "one of the living process, one of this"
        if make is atomic_folder:
            assert os.listdir(made) == []
            (made / "x").write_text("new")
        else:
            made.write(b"new")
    assert ((path / "x") if make is atomic_folder else path).read_text() == "new"
    processes[1].kill()
    processes[1].wait()
    with atomic_output(path) if make is atomic_output else atomic_folder(tmp_path / "data2"):
        pass
    if make is atomic_output:
        assert os.listdir(tmp_path) == ["data"]


def test_file_systems_without_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr("fcntl.flock", refuse)
    for name in ("x", "y" * 250):
        with atomic_output(tmp_path / name, "w") as stream:
            stream.write("1")
        with atomic_folder(tmp_path / f"{name[:200]}d") as folder:
            (folder / "a").write_text("2")
    assert len(os.listdir(tmp_path)) == 4 and (tmp_path / "x").stat().st_mode & 0o777 == 0o666 & ~umask()


def test_files_are_written_together_or_not_at_all(tmp_path):
    paths = [tmp_path / name for name in "abc"]
    write_together({path: [b"old ", path.name.encode()] for path in paths})

    def failing():
        yield b"new"
        raise OSError(28, "No space left on device")

    for failed in paths:
        with pytest.raises(InputError, match=f"^{failed}: cannot write: No space"):
            write_together({path: failing() if path == failed else [b"new"] for path in paths}, outdated=paths)
        assert [path.read_bytes() for path in paths] == [b"old a", b"old b", b"old c"]
        assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


def test_outdated_files_are_gone_before_the_first_new_one(tmp_path, monkeypatch):
    paths = [tmp_path / name for name in "ab"]
    write_together({path: [b"old"] for path in paths})
    seen, replace = [], os.replace

    def record(source, target):
        seen.append((target.name, paths[1].exists()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", record)
    write_together({path: [b"new"] for path in paths}, outdated=[paths[1], tmp_path / "none"])
    assert seen == [("a", False), ("b", False)] and paths[1].read_bytes() == b"new"


def test_a_lock_is_held_by_one(tmp_path):
    def wait():
        with locked(tmp_path / "lock"):
            order.append("second")

    order, thread = [], threading.Thread(target=wait, daemon=True)
    with locked(tmp_path / "lock"):
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    with pytest.raises(InputError, match="none/lock: cannot lock"), locked(tmp_path / "none" / "lock"):
        pass
