"""Files are written whole, private, and never through a link."""

import errno
import os

import pytest

from safe_files import writing
from safe_files.errors import in_words
from safe_files.writing import make_private_folder, private_opener, write_atomic


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


def mode(path) -> int:
    return path.stat().st_mode & 0o777


def test_a_file_is_private_unless_it_is_to_be_given_away(path):
    before = os.umask(0o022)
    try:
        write_atomic(path, b"secret")
        assert mode(path) == 0o600
        write_atomic(path, b"open", private=False)
        assert mode(path) == 0o644
    finally:
        os.umask(before)
    assert path.read_bytes() == b"open"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.symlink_to(path.parent / "mine"), "is a link: remove it"),
        (lambda path: path.symlink_to(path.parent / "nowhere"), "is a link: remove it"),
        (os.mkfifo, "is a pipe or a device"),
        (os.mkdir, "Is a directory"),
    ],
)
def test_nothing_but_a_file_is_replaced(path, tmp_path, make, says):
    (tmp_path / "mine").write_bytes(b"mine")
    make(path)
    before = sorted(os.listdir(tmp_path))
    for keep in (1, 3):
        with pytest.raises(OSError, match="file") as caught:
            write_atomic(path, b"content", keep)
        assert says in in_words(caught.value) and str(path) in in_words(caught.value)
    assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / "mine").read_bytes() == b"mine"


def test_a_full_disk_names_the_file(path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space") as caught:
        write_atomic(path, b"content")
    assert in_words(caught.value).startswith(f"{path}: No space left on device: make room")
    assert os.listdir(path.parent) == []


def test_a_new_folder_is_private_and_on_the_disk_with_all_above_it(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(writing, "_sync_folder", synced.append)
    make_private_folder(tmp_path / "runs" / "mine")
    assert mode(tmp_path / "runs" / "mine") == 0o700
    assert set(synced) == {tmp_path, tmp_path / "runs"}
    synced.clear()
    (tmp_path / "open").mkdir(mode=0o755)
    make_private_folder(tmp_path / "open")  # somebody wanted it so
    assert mode(tmp_path / "open") == 0o755 and synced == []


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for folder, says in (
        ("file", "something stands there"),
        ("file/run", "where a folder belongs"),
    ):
        with pytest.raises(OSError, match="File exists|Not a directory") as caught:
            make_private_folder(tmp_path / folder)
        assert says in in_words(caught.value) and str(tmp_path / folder) in in_words(caught.value)


def test_what_is_appended_to_is_private_and_no_link(path, tmp_path):
    with open(path, "ab", opener=private_opener) as file:
        file.write(b"line")
    assert mode(path) == 0o600
    (tmp_path / "link").symlink_to(path)
    with (
        pytest.raises(OSError, match="symbolic"),
        open(tmp_path / "link", "ab", opener=private_opener),
    ):
        pass
    assert path.read_bytes() == b"line"
