"""The files that the documentation links, and modules in back quotes, exist."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")])
LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)#\s]+)")
MODULE = re.compile(r"`([a-z_]+(?:/[a-z_]+)+\.py)(?::\w+)?`")
ROOTS = (REPOSITORY, REPOSITORY / "ast_jax", REPOSITORY / "tests")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_and_modules_exist(page):
    text = page.read_text(encoding="utf-8")
    absent = [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    absent += [
        name
        for name in MODULE.findall(text)
        if not any((root / name).exists() for root in ROOTS)
    ]
    assert absent == []


def test_the_picture_of_the_rooms_has_every_room():
    picture = (REPOSITORY / "docs" / "architecture.svg").read_text(encoding="utf-8")
    rooms = {
        path.stem
        for path in (REPOSITORY / "ast_jax").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    absent = {
        room for room in rooms - {"__init__"} if not re.search(rf"\b{room}\b", picture)
    }
    assert not absent, "run python docs/draw_architecture.py"
