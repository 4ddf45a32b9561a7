"""Files are whole or absent, and no two of them have the same name."""

import json
import re
import threading
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ast_jax import files
from ast_jax.errors import UserError

SUFFIXES = (".png", ".tiff")


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "results.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"a": object()})
    with pytest.raises(KeyboardInterrupt), files.open_whole(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(path.parent.iterdir()) == [path]


def test_a_reader_never_meets_half_a_file(tmp_path):
    path, contents = tmp_path / "file", [bytes([i]) * 100_000 for i in range(4)]
    files.write_bytes(path, contents[0])
    writers = [
        threading.Thread(target=files.write_bytes, args=(path, content))
        for content in contents * 5
    ]
    for writer in writers:
        writer.start()
        assert path.read_bytes() in contents
    for writer in writers:
        writer.join()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "attempt", [files.check_writable, lambda path: files.write_text(path, "")]
)
def test_what_cannot_be_written_is_named(tmp_path, attempt):
    (tmp_path / "a file").write_text("")
    path = tmp_path / "a file" / "results.json"
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}: cannot be written"):
        attempt(path)
    with pytest.raises(UserError, match="cannot be written"):
        files.write_text(tmp_path / ("x" * 256), "")


def test_a_file_that_can_be_written_is_not_made_by_asking(tmp_path):
    files.check_writable(tmp_path / "new" / "file")
    assert not list((tmp_path / "new").iterdir())


def test_a_closed_pipe_is_no_fault_of_the_disk(tmp_path):
    with pytest.raises(BrokenPipeError), files.write_errors(tmp_path):
        raise BrokenPipeError


def test_a_name_of_every_length_can_be_written(tmp_path):
    unique = files.UniqueNames(*SUFFIXES)
    for size in (1, 240, 251, 252, 255):
        for letter in ("x", "ü", "語"):
            name = (letter * size).encode()[:size].decode(errors="ignore") or "x"
            for suffix in SUFFIXES:
                files.write_bytes(tmp_path / f"{unique(name)}{suffix}", b"")


# Similar names: capitals, Unicode forms, numbers, suffixes.
LETTERS = st.sampled_from(
    ["a", "A", "ü", "u\u0308", "Ü", "ß", "ss", "\u0131", "i", "ﬁ", "fi"]
)
ENDS = st.sampled_from(["", "-2", "-3", ".png", ".TIFF", " ", ".", "\udcff", "\x00"])
PARTS = st.builds(
    "".join,
    st.lists(st.one_of(LETTERS, ENDS, st.just("x" * 125)), min_size=1, max_size=4),
)
NAMES = st.lists(
    st.lists(st.one_of(PARTS, st.text(max_size=5)), min_size=1, max_size=3).map(
        "/".join
    ),
    max_size=20,
)


def spellings(path):
    """The path as different file systems keep it."""
    for form in ("NFC", "NFD"):
        normal = unicodedata.normalize(form, path)
        yield from (normal.lower(), normal.upper(), normal.casefold())


@settings(max_examples=300, deadline=None)
@given(NAMES, st.integers(0, 12))
def test_names_are_unique_on_any_file_system(names, remembered):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_REMEMBERED", remembered)
        unique = files.UniqueNames(*SUFFIXES)
        found = [unique(name) for name in names]
    paths = [f"{name}{suffix}" for name in found for suffix in SUFFIXES]
    folders = {str(parent) for name in found for parent in name.parents[:-1]}
    for how in range(6):
        kept = [list(spellings(path))[how] for path in paths]
        assert len(set(kept)) == len(paths)
        # No file has the name of a folder.
        assert not {list(spellings(folder))[how] for folder in folders} & set(kept)
    for name in found:
        assert not name.is_absolute()
        for part in (*name.parts[:-1], f"{name.name}.tiff"):
            assert 0 < len(part.encode()) <= 255
            assert part not in (".", "..")
        assert len(str(name).encode()) <= 1024 + 12


@given(st.lists(st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True), unique=True))
def test_names_that_differ_stay_as_they_are(names):
    unique = files.UniqueNames(*SUFFIXES)
    assert [str(unique(name)) for name in names] == names


def test_a_name_that_comes_again_and_again_costs_no_more_each_time(monkeypatch):
    looks = []
    key = files._key
    monkeypatch.setattr(files, "_key", lambda path: looks.append(1) or key(path))
    unique = files.UniqueNames(*SUFFIXES)
    found = [str(unique("current")) for _ in range(2_000)]
    assert found[:3] == ["current", "current-2", "current-3"]
    assert len(set(found)) == 2_000
    assert len(looks) <= 4 * 2_000


@given(st.text(max_size=20))
def test_a_plain_name_is_one_part_of_a_path(name):
    assert re.fullmatch(r"[\w.-]+", files.plain_name(name))
    assert files.plain_name(name) not in (".", "..")
