"""The door for files of others: what is no such file, or says nothing of use, is one error."""

import os
import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_files.errors import FileError, in_words, why
from safe_files.reading import lines, open_regular, parse_json, read_bytes, read_json, read_toml


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


def test_a_file_is_read_up_to_its_bound(path):
    path.write_bytes(b"12345")
    assert read_bytes(path, 5) == b"12345"
    with pytest.raises(FileError, match="longer than 4 bytes"):
        read_bytes(path, 4)


def test_a_hole_of_terabytes_is_not_read(path):
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    tracemalloc.start()
    with pytest.raises(FileError, match="longer than"):
        read_bytes(path, 1 << 30)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (os.mkfifo, "is a pipe or a device"),
        (os.mkdir, "Is a directory: name a file"),
        (lambda path: os.symlink("/dev/zero", path), "is a pipe or a device"),
        (lambda path: os.symlink(path, path), "Too many levels of symbolic links|is a link"),
        (lambda path: None, "No such file or directory: name one that is there"),
    ],
)
def test_what_is_no_file_is_an_error_with_its_name(path, make, says):
    make(path)
    for follow_links in (True, False):
        with pytest.raises(OSError, match=path.name) as caught, open_regular(path, follow_links):
            pass
        assert str(path) in in_words(caught.value)
    with pytest.raises(OSError, match=path.name) as caught, open_regular(path):
        pass
    assert any(part in why(caught.value) for part in says.split("|"))


def test_a_link_is_followed_only_where_that_is_asked_for(path, tmp_path):
    (tmp_path / "other").write_bytes(b"content")
    path.symlink_to(tmp_path / "other")
    assert read_bytes(path, 10) == b"content"
    with pytest.raises(OSError, match="is a link, which is not followed"):
        read_bytes(path, 10, follow_links=False)


JSON = {
    "nothing": b"",
    "broken": b"{",
    "deep lists": b"[" * 200_000,
    "deep objects": b'{"a":' * 200_000,
    "a number of 5,000 digits": b"1" * 5000,
    "a name twice": b'{"a": 1, "a": 2}',
    "no UTF-8": b'"\xff"',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "NaN": b"[NaN]",
    "Infinity": b"-Infinity",
}


@pytest.mark.parametrize("text", JSON.values(), ids=JSON)
def test_what_is_no_json_is_one_error(path, text):
    path.write_bytes(text)
    with pytest.raises(FileError) as caught:
        read_json(path, 10_000_000)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_json_is_what_it_says():
    assert parse_json('{"a": [1, 2.5, null, true, "\u00e9"]}') == {"a": [1, 2.5, None, True, "é"]}
    assert parse_json("[Infinity]", finite=False) == [float("inf")]


TOML = {
    "broken": b"a = ",
    "a byte order mark": b'\xef\xbb\xbfa = "b"',
    "deep lists": b"a=" + b"[" * 100_000,
    "deep tables": b"a=" + b"{a=" * 100_000,
    "a key of 50,000 parts": b".".join([b"a"] * 50_000) + b"=1",
    "the same in a table": b"b={" + b".".join([b"a"] * 50_000) + b"=1}",
    "a header of 50,000 parts": b"[" + b".".join([b"a"] * 50_000) + b"]",
    "a number of 5,000 digits": b"a=1" + b"0" * 5000,
    "a key twice": b"a=1\na=2",
}


def test_names_of_files_in_toml_may_have_any_bytes(path):
    path.write_bytes(b'a = "lat\xe9in.mp4"')
    assert os.fsencode(read_toml(path, 1000)["a"]) == b"lat\xe9in.mp4"


@pytest.mark.parametrize("text", TOML.values(), ids=TOML)
def test_what_is_no_toml_is_one_error(path, text):
    path.write_bytes(text)
    tracemalloc.start()
    with pytest.raises(FileError, match="not TOML") as caught:
        read_toml(path, 1 << 20)
    assert tracemalloc.get_traced_memory()[1] < 100 << 20
    tracemalloc.stop()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_toml_is_what_it_says(path):
    dots = "." * 100
    path.write_text(f'# {dots}\na = 1.5\n[b.c]\nd = "{dots}"\n')
    assert read_toml(path, 1000) == {"a": 1.5, "b": {"c": {"d": dots}}}


@pytest.mark.slow
@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=8))
def test_lines_end_where_they_end_and_the_long_ones_are_nothing(tmp_path_factory, wanted):
    path = tmp_path_factory.mktemp("lines") / "file"
    path.write_bytes(b"".join(line + b"\n" for line in wanted))
    with open(path, "rb") as file:
        found = list(lines(file, 16))
    end = 0
    assert len(found) == len(wanted)
    for line, (part, ends) in zip(wanted, found, strict=True):
        end += len(line) + 1
        assert ends == end
        assert part == (line + b"\n" if len(line) < 16 else None)


def test_a_last_line_without_its_end_is_a_line_too(path):
    for size in (5, 16, 17, 32, 40):
        path.write_bytes(b"x" * size)
        with open(path, "rb") as file:
            assert [end for _, end in lines(file, 16)] == [size]


def test_a_thousand_mutated_texts_never_do_more_than_raise(path):
    generator = random.Random(0)
    whole = b'{"a": [1, 2.5e3, null], "b": {"c": "text \\u00e9", "d": true}, "e": -1}'
    for _ in range(1000):
        text = bytearray(whole)
        for _ in range(generator.randint(1, 4)):
            at = generator.randrange(len(text))
            text[at : at + generator.randint(0, 3)] = generator.randbytes(generator.randint(0, 3))
        for parse in (parse_json, lambda text: parse_json(text, finite=False)):
            try:
                parse(bytes(text))
            except FileError as error:
                assert "\n" not in str(error)
