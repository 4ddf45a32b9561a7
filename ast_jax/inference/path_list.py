"""Reads a list of paths that arrives byte by byte, in any of several encodings."""

import codecs
import sys
from collections.abc import Callable, Iterator

_AT_ONCE = 1 << 16  # bytes
_LONGEST = 1 << 16  # characters of a line; no system has longer paths


def path_lines(read: Callable[[int], bytes]) -> Iterator[str]:
    """Yields each line, without its end, as soon as it has arrived.

    A byte-order mark means UTF-8 or UTF-16. Without one the file system's encoding is
    used, which keeps every byte. A line that is longer than any path is cut in pieces.

    Args:
      read: returns at most the given number of bytes, and none only at the end; may
        wait.
    """
    decoder, rest = None, ""
    while content := read(_AT_ONCE):
        if decoder is None:
            while len(content) < 2 and (more := read(1)):
                content += more
            decoder = _decoder(content)
        *lines, rest = (rest + decoder.decode(content)).split("\n")
        yield from (line.removesuffix("\r") for line in lines)
        while len(rest) > _LONGEST:
            yield rest[:_LONGEST]
            rest = rest[_LONGEST:]
    if decoder is not None:
        rest += decoder.decode(b"", final=True)
    if rest:
        yield rest.removesuffix("\r")


def _decoder(start: bytes) -> codecs.IncrementalDecoder:
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return codecs.getincrementaldecoder("utf-16")("replace")
    if start.startswith(codecs.BOM_UTF8[:2]):
        return codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
    encoding = sys.getfilesystemencoding()
    return codecs.getincrementaldecoder(encoding)("surrogateescape")
