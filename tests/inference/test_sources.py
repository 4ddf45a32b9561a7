"""Paths become parts: sorted, paired by stem, each with a unique name."""

import unicodedata
from pathlib import Path

import pytest

from ast_jax import files
from ast_jax.errors import UserError
from ast_jax.inference import sources
from ast_jax.inference.sources import list_sources, stream_sources


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def mvtec(tmp_path):
    """Two defect types as MVTec 3D-AD lays them out."""
    for kind in ("hole", "good"):
        for stem in ("001", "000"):
            touch(tmp_path / kind, f"rgb/{stem}.png", f"xyz/{stem}.tiff")
            touch(tmp_path / kind, f"gt/{stem}.png")
    return tmp_path


def test_images_and_clouds_of_subfolders_pair_by_stem(mvtec):
    found = list_sources(mvtec, None, "rgb3d")
    assert [str(source.name) for source in found] == [
        "good/rgb/000",
        "good/rgb/001",
        "hole/rgb/000",
        "hole/rgb/001",
    ]
    for source in found:
        assert source.path == str(source.image)
        assert source.xyz == source.image.parents[1] / f"xyz/{source.image.stem}.tiff"
        assert source.xyz.is_file()


def test_neither_clouds_nor_ground_truth_are_images(mvtec):
    found = list_sources(mvtec, None, "rgb")
    assert {source.image.parent.name for source in found} == {"rgb"}
    assert all(source.xyz is None for source in found)


def test_depth_alone_is_listed_by_its_clouds(mvtec):
    found = list_sources(mvtec, None, "3d")
    assert [str(source.name) for source in found][:2] == [
        "good/xyz/000",
        "good/xyz/001",
    ]
    assert found[0].image == mvtec / "good/rgb/000.png"  # to be shown
    (mvtec / "good/rgb/000.png").unlink()
    assert list_sources(mvtec / "good", None, "3d")[0].image is None


def test_clouds_in_a_folder_of_their_own_lie_as_the_images_do(tmp_path):
    touch(tmp_path / "images", "a/0.png", "b/0.JPG", "1.png", ".hidden.png", "x.txt")
    touch(tmp_path / "clouds", "a/0.npy", "b/0.tiff", "1.png")
    found = list_sources(tmp_path / "images", tmp_path / "clouds", "rgb3d")
    pairs = [(str(source.name), source.xyz.name) for source in found]
    assert pairs == [("1", "1.png"), ("a/0", "0.npy"), ("b/0", "0.tiff")]
    assert found[1].xyz.parent.name == "a"


def test_a_file_has_its_own_cloud_or_the_one_beside(mvtec, tmp_path):
    image, cloud = mvtec / "good/rgb/000.png", mvtec / "hole/xyz/001.tiff"
    (source,) = list_sources(image, cloud, "rgb3d")
    assert (source.image, source.xyz, source.name) == (image, cloud, Path("000"))
    (source,) = list_sources(image, None, "rgb3d")
    assert source.xyz == mvtec / "good/xyz/000.tiff"
    (source,) = list_sources(cloud, None, "3d")
    assert source.xyz == cloud


def test_a_missing_cloud_is_left_to_be_told_with_its_path(mvtec):
    (mvtec / "good/xyz/001.tiff").unlink()
    assert list_sources(mvtec, None, "rgb3d")[1].xyz == mvtec / "good/xyz/001.tiff"


def test_equal_stems_do_not_share_a_name(tmp_path):
    touch(tmp_path, "a/0.png", "a/0.jpg", "a/0-2.png", "A/0.png")
    names = [str(source.name).lower() for source in list_sources(tmp_path, None, "rgb")]
    assert len(set(names)) == 4


@pytest.mark.parametrize(
    ("path", "xyz", "message"),
    [
        ("nowhere", None, "nowhere: no such file or folder"),
        ("images", "nowhere", "nowhere: no such file or folder"),
        ("images", "images/0.png", "give a folder for a folder"),
        ("empty", None, "holds no .bmp, "),
        ("images", None, "where are the point clouds"),
    ],
)
def test_a_mistake_is_told_before_anything_is_scored(tmp_path, path, xyz, message):
    touch(tmp_path, "images/0.png", "empty/notes.txt")
    with pytest.raises(UserError, match=message):
        list_sources(tmp_path / path, xyz and tmp_path / xyz, "rgb3d")


def test_a_stream_names_what_lies_below_the_working_directory_shortly(
    mvtec, monkeypatch
):
    monkeypatch.chdir(mvtec)
    lines = [
        "good/rgb/000.png\n",
        "\n",
        f"{mvtec}/good/rgb/000.png\r\n",
        "/x y.png",
        "/",
    ]
    found = list(stream_sources(lines, None, "rgb3d"))
    assert [source.path for source in found] == [
        "good/rgb/000.png",
        f"{mvtec}/good/rgb/000.png",
        "/x y.png",
        "/",
    ]
    names = [str(source.name) for source in found]
    assert names == ["good/rgb/000", "good/rgb/000-2", "x y", "part"]
    assert found[0].xyz == Path("good/xyz/000.tiff")
    assert found[2].xyz is None


def test_a_streams_clouds_may_lie_in_one_folder(mvtec):
    (source,) = stream_sources(["/line/001.png"], mvtec / "good/xyz", "rgb3d")
    assert source.xyz == mvtec / "good/xyz/001.tiff"


def test_linked_folders_are_entered_and_circles_end(tmp_path):
    touch(tmp_path, "line/a/0.png", "elsewhere/day2/1.png")
    (tmp_path / "line/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "line/a/above").symlink_to(tmp_path / "line")
    (tmp_path / "line/dangling").symlink_to(tmp_path / "nowhere")
    names = [
        str(source.name) for source in list_sources(tmp_path / "line", None, "rgb")
    ]
    assert names == ["a/0", "linked/day2/1"]


def test_folders_that_are_left_out_are_known_by_any_path(tmp_path):
    touch(tmp_path, "0.png", "out/maps/1.png", "out/2.png", "maps/3.png")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    left_out = [tmp_path / "link" / "maps", tmp_path / "absent"]
    found = list_sources(tmp_path, None, "rgb", left_out)
    names = [str(source.name) for source in found]
    assert names == ["0", "link/2", "maps/3", "out/2"]


@pytest.mark.parametrize("mode", ["rgb", "3d", "rgb3d"])
def test_no_line_of_a_stream_ends_it(tmp_path, mode):
    lines = ["a\0b.png", "x" * 252 + ".png", "y" * 5000, "/" + "z/" * 3000, "ok.png"]
    *_, last = found = list(stream_sources(lines, None, mode))
    assert [source.path for source in found] == lines
    assert "NUL" in found[0].problem
    assert last.problem is None
    assert all(len(part) <= 250 for s in found for part in s.name.parts)


def test_a_stream_costs_the_same_for_every_line(monkeypatch):
    """Counts steps, for a camera that overwrites one file and for one that does not.

    In an earlier version 4,000 lines compared 8,000,000 names.
    """
    looked_at, key, made = [], files._key, []
    monkeypatch.setattr(files, "_key", lambda path: looked_at.append(1) or key(path))
    monkeypatch.setattr(files, "_REMEMBERED", 100)

    def unique(*suffixes):
        made.append(files.UniqueNames(*suffixes))
        return made[-1]

    monkeypatch.setattr(sources, "UniqueNames", unique)
    count = 2_000
    for lines in (["current.png"] * count, [f"{n}.png" for n in range(count)]):
        looked_at.clear()
        names = {source.name for source in stream_sources(lines, None, "rgb")}
        assert len(names) == count
        assert len(looked_at) <= 5 * count
        held = [
            each for each in vars(made[-1]).values() if isinstance(each, set | dict)
        ]
        assert len(held) == 2
        assert max(map(len, held)) <= 100  # and so constant memory


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_two_unicode_forms_pair(tmp_path, forms):
    image, cloud = (unicodedata.normalize(form, "größe") for form in forms)
    touch(tmp_path, f"rgb/{image}.png", f"xyz/{cloud}.tiff")
    (source,) = list_sources(tmp_path, None, "rgb3d")
    assert source.xyz == tmp_path / "xyz" / f"{cloud}.tiff"
