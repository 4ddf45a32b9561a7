"""Manifests as people write them are read, or an error names the line."""

import csv
import io
import json
import re

import layouts
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ast_jax import data
from ast_jax.data.manifest import COLUMNS, find_manifest, list_manifest
from ast_jax.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("parts")
    for name in ("a/1.png", "a/2.png", "é.png"):
        layouts.save(root / name, layouts.picture(0))
    return root


def ids(folder, content, name="manifest.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    listing = list_manifest(path, depth=False)
    path.unlink()
    return [sample.id for sample in listing.samples], listing.problems


@pytest.mark.parametrize("divider", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_spreadsheets_divide_and_encode_as_they_like(folder, divider, end, encoding):
    rows = [("image", " split", "defect"), ("a/1.png", "train", "")]
    rows += [("é.png", "test", "größe; tief")]
    text = io.StringIO()
    csv.writer(text, delimiter=divider, lineterminator=end).writerows(rows)
    found, problems = ids(folder, text.getvalue().encode(encoding))
    assert found == ["test/größe; tief/é", "train/good/a_1"]
    assert not problems


def test_names_are_found_in_the_other_unicode_form(folder):
    found, problems = ids(folder, "image\ne\u0301.png\n")
    assert found == ["train/good/é"]
    assert not problems


@pytest.mark.parametrize(
    "line, told",
    [
        ('{"image": 5}', "image must be text, in quotes. Got 5"),
        ('{"image": "a/1.png", "defect": 3}', "defect must be text"),
        ('{"image": "a/1.png", "split": true}', "split must be text"),
        ('{"image": "a/1.png", "mask": ["a/2.png", 7]}', "mask must be text"),
        ('{"image": "a/1.png", "mask": {"a": 1}}', "mask must be text"),
        ("[1]", "expected an object with image, depth, split, defect, mask"),
        ('{"img": "a/1.png"}', "unknown column 'img'; did you mean 'image'?"),
    ],
)
def test_what_is_no_text_is_told_with_its_line(folder, line, told):
    good = '{"image": "a/2.png"}'
    with pytest.raises(UserError, match=rf"manifest\.jsonl:2: {re.escape(told)}"):
        ids(folder, f"{good}\n{line}\n", "manifest.jsonl")
    (folder / "manifest.jsonl").unlink()


def test_more_values_than_columns_are_told(folder):
    with pytest.raises(UserError, match=r"manifest\.csv:2: more values than columns"):
        ids(folder, "image,split\na/1.png,train,extra\n")
    (folder / "manifest.csv").unlink()


@pytest.mark.parametrize(
    "name", ["nowhere.png", "a" * 300, "a", "\\u0000", "\\ud800", "a/1.png/b"]
)
def test_files_that_are_not_there_are_told(folder, name):
    _, (problem,) = ids(folder, f'{{"image": "{name}"}}', "manifest.jsonl")
    assert re.match(r".*manifest\.jsonl:1: .*: no (such )?file", problem)


@pytest.mark.parametrize(
    "name, content, told",
    [
        (
            "manifest.csv",
            "image\nü.png\n".encode("latin-1"),
            "byte 6 .*save it as UTF-8",
        ),
        ("manifest.jsonl", b'{"image": "a"}\n{"image": "b",}\n', "line 2, column 15"),
    ],
)
def test_where_a_manifest_is_no_text_is_told(folder, name, content, told):
    with pytest.raises(UserError, match=rf"{re.escape(name)}: .*{told}"):
        ids(folder, content, name)
    (folder / name).unlink()


@pytest.mark.parametrize("text", ["", "x\n", "image,depth\n"])
def test_a_manifest_of_nothing_is_named(tmp_path, text):
    (tmp_path / "notes.txt").write_text(text)
    with pytest.raises(UserError, match=r"notes\.txt: a manifest without a line"):
        list_manifest(tmp_path / "notes.txt", depth=False)


def test_a_link_to_nothing_is_no_manifest(tmp_path):
    (tmp_path / "manifest.csv").symlink_to(tmp_path / "gone.csv")
    with pytest.raises(UserError, match=r"manifest\.csv: a link to .*gone\.csv"):
        find_manifest(tmp_path)


def test_two_manifests_are_one_too_many(tmp_path):
    for name in ("manifest.csv", "manifest.jsonl"):
        (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=r"manifest\.csv and manifest\.jsonl"):
        find_manifest(tmp_path)


def test_only_the_folders_that_a_manifest_names_are_looked_into(tmp_path):
    root = tmp_path / "home"
    for name in ("a/1.png", "a/deep/x.png", "other/y.png"):
        layouts.save(root / name, layouts.picture(0))
    (root / "a" / "notes.txt").write_text("x")
    (root / "manifest.csv").write_text("image\na/1.png\n")
    builder = data.builder_class("folder")(
        category="home", data_dir=tmp_path / "prepared", root=root
    )
    assert builder.selection.unused == (root / "a" / "notes.txt",)


VALUES = st.one_of(
    st.none(),
    st.sampled_from(["a/1.png", "a/2.png", "train", "test", "good", "bad", "../x"]),
    st.text(max_size=8),
    st.integers(),
    st.booleans(),
    st.lists(st.text(max_size=3), max_size=2),
)
ROWS = st.lists(
    st.dictionaries(st.sampled_from(COLUMNS), VALUES, max_size=5), max_size=4
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    rows=ROWS, bytes_=st.binary(max_size=60), suffix=st.sampled_from(["csv", "jsonl"])
)
def test_any_manifest_lists_parts_or_is_refused(folder, rows, bytes_, suffix):
    if suffix == "jsonl":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        stream = io.StringIO()
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
        text = stream.getvalue()
    text = text.encode("utf-8", "surrogatepass")
    for content in (text, bytes_, text + bytes_, b"\xff\xfe" + bytes_):
        path = folder / f"any.{suffix}"
        path.write_bytes(content)
        try:
            samples = list_manifest(path, depth=False).samples
        except UserError as error:
            assert str(path) in str(error)
        else:
            assert len({sample.id for sample in samples}) == len(samples)
