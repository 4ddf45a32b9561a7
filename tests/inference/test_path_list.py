"""A list of paths is read in any encoding, line by line as it arrives."""

import codecs
import io
import os
import tracemalloc

import pytest

from ast_jax.inference.path_list import path_lines

LINES = ["parts/0.png", "", "Bäüçs/1 2.png", "last"]


def read(content: bytes, at_once: int | None = None) -> list[str]:
    stream = io.BytesIO(content)
    return list(path_lines(lambda size: stream.read(at_once or size)))


@pytest.mark.parametrize("at_once", [1, 2, 3, None])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ],
)
def test_every_encoding_gives_the_same_lines(mark, encoding, end, at_once):
    content = mark + end.join(LINES).encode(encoding)
    assert read(content, at_once) == LINES
    assert read(content + end.encode(encoding), at_once) == LINES


def test_bytes_that_are_no_text_are_the_file_systems():
    (line,) = read(b"parts/\xff\xe4.png\n")
    assert os.fsencode(line) == b"parts/\xff\xe4.png"


def test_what_is_cut_or_empty_ends_without_an_error():
    assert read(b"") == []
    assert read(codecs.BOM_UTF8) == []
    assert read(codecs.BOM_UTF16_LE + b"a") == ["\ufffd"]


def test_a_line_is_there_before_the_next_one_is_written():
    arrived = [b"one\n", b"tw"]
    lines = path_lines(lambda size: arrived.pop(0))
    assert next(lines) == "one"  # a read for more would find an empty list
    assert arrived == [b"tw"]


def test_a_line_without_an_end_takes_bounded_memory():
    pieces = iter([b"x" * 65536] * 500)
    tracemalloc.start()
    lines = list(map(len, path_lines(lambda size: next(pieces, b""))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(lines) == 500 * 65536
    assert peak < 4e6
