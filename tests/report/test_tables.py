import pytest

from ast_jax.report import tables


def tree(rows: dict, paper: dict | None = None, mean: dict | None = None) -> dict:
    """Like `results.json`, with the same figures for the teacher."""
    mean = mean or next(iter(rows.values()))
    paper = paper or {"categories": {}, "mean": {}}
    figures = {"categories": rows, "mean": mean}
    return {**figures, "teacher": figures, "paper": paper}


def texts(table: tables.Table) -> dict[str, list[str]]:
    return {name: [cell.text for cell in cells] for name, cells in table.rows}


PAPER = {
    "categories": {"a": {"image_auroc": 0.90}, "b": {"image_auroc": 0.80}},
    "mean": {"image_auroc": 0.86},
}


def test_the_difference_stands_beside_our_figure_and_the_papers():
    results = tree({"a": {"image_auroc": 0.872}}, PAPER)
    table = tables.main_table(results, complete=False)
    assert table.head[:3] == ("Image AUROC", "Paper", "Difference")
    assert texts(table)["a"] == ["87.2", "90.0", "\N{MINUS SIGN}2.8", "87.2"]
    assert table.rows[0][1][2].tone == "worse" and table.compares


def test_the_printed_mean_is_compared_only_when_the_data_set_is_complete():
    results = tree({"a": {"image_auroc": 0.9}, "b": {"image_auroc": 0.9}}, PAPER)
    complete = tables.main_table(results, complete=True)
    assert texts(complete)["Mean"][:3] == ["90.0", "86.0", "+4.0"]
    some = tables.main_table(results, complete=False)
    assert texts(some)["Mean"][:3] == ["90.0", "85.0", "+5.0"]


def test_nothing_published_leaves_no_empty_columns():
    table = tables.main_table(tree({"a": {"image_auroc": 0.9}}), complete=True)
    assert "Paper" not in table.head and not table.compares


def test_a_figure_that_does_not_exist_is_a_dash_with_its_reason():
    figures = {"image_auroc": 0.9, "pixel_auroc": None, "au_pro_0.3": None}
    figures["reasons"] = dict.fromkeys(["pixel_auroc", "au_pro_0.3"], "no masks")
    results = tree({"a": figures}, PAPER)
    table = tables.main_table(results, complete=False)
    assert texts(table)["a"] == [
        "90.0",
        "90.0",
        "+0.0",
        tables.DASH,
        tables.DASH,
        "90.0",
    ]
    assert tables.reasons(results) == [
        "a: no masks, so there is no Pixel AUROC or AU-PRO 30 %."
    ]


def test_a_mean_over_some_categories_is_said_to_be_one():
    lacking = {"image_auroc": None, "reasons": {"image_auroc": "no test images"}}
    results = tree({"a": {"image_auroc": 0.9}, "b": lacking})
    assert tables.reasons(results) == [
        "b: no test images, so there are no metrics.",
        "The mean is over the categories that have the figure.",
    ]


def test_several_seeds_show_mean_and_deviation_and_each_seed():
    figures = {
        "image_auroc": 0.9,
        "std": {"image_auroc": 0.0123},
        "seeds": {"3": {"image_auroc": 0.891}, "7": {"image_auroc": 0.909}},
        "ensemble": {"image_auroc": 0.93},
    }
    results = tree({"a": figures})
    table = tables.main_table(results, complete=True)
    assert texts(table)["a"][0] == "90.0 ± 1.2"
    seeds = tables.seeds_table(results)
    assert seeds.head == ("seed 3", "seed 7", "ensemble")
    assert texts(seeds)["a"] == ["89.1", "90.9", "93.0"]
    assert tables.seeds_table(tree({"a": {"image_auroc": 0.9}})) is None


def test_the_full_table_has_every_figure_known_or_not():
    table = tables.full_table(tree({"a": {"new_metric": 0.5, "image_auroc": 1.0}}))
    assert texts(table) == {"Image AUROC": ["100.0"], "new_metric": ["50.0"]}


def test_loco_shows_logical_and_structural_apart():
    keys = ["image_auroc", "image_auroc_logical", "image_auroc_structural"]
    figures = dict.fromkeys([*keys, "au_spro_0.05"], 0.5)
    table = tables.main_table(tree({"a": figures}), complete=True)
    assert table.head[:4] == tuple(map(tables.label, figures))
    full = tables.full_table(tree({"a": figures | {"au_spro_1.0_logical": 0.5}}))
    assert [name for name, _ in full.rows] == [
        *("Image AUROC", "Image AUROC logical", "Image AUROC structural"),
        *("AU-sPRO 100 % logical", "AU-sPRO 5 %"),
    ]


@pytest.mark.parametrize("name", ["a|b", "*a*", "<i>a</i>", "a_b", "`a`", "[a](b)"])
def test_markdown_shows_odd_names_as_they_are(name):
    text = tables.main_table(
        tree({name: {"image_auroc": 1.0}}), complete=True
    ).markdown()
    head, rule, row = text.splitlines()
    unescaped = row.replace("\\|", "¦").count("|")
    assert head.count("|") == rule.count("|") == unescaped
    assert row.replace("\\", "").startswith(f"| {name} |")


def test_markdown_sets_the_mean_in_bold():
    rows = {"a": {"image_auroc": 0.5}, "b": {"image_auroc": 0.5}}
    text = tables.main_table(tree(rows), complete=True).markdown()
    assert text.splitlines()[-1] == "| **Mean** | **50.0** | **50.0** |"
