import html.parser
import re
from pathlib import Path

import browser
import pytest
from fabricated import Made, made_up_run

from ast_jax.errors import UserError
from ast_jax.report import report

ODD_CATEGORY = 'b&w <i>"caps"</i>'
ODD_DEFECTS = ("good", "<script>alert(1)</script>", "$x$ {{ 1 }}", "_under 100%")


class Page(html.parser.HTMLParser):
    """Collects the page's text, tags and references."""

    def __init__(self, path: Path):
        super().__init__()
        self.source, self.text, self.tags, self.references = (
            path.read_text(),
            [],
            [],
            [],
        )
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.references += [
            v for k, v in attributes if k in ("src", "href", "xlink:href")
        ]

    def handle_data(self, data):
        self.text.append(data.strip())


def write(made: Made) -> Page:
    report.write_report(made.run, made.evaluations, made.results)
    return Page(made.run.directory / "report" / "index.html")


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> tuple[Made, Page]:
    """Two categories, two seeds, a threshold, and names that look like markup."""
    made = made_up_run(
        tmp_path_factory.mktemp("odd"),
        (ODD_CATEGORY, "bagel"),
        defects=ODD_DEFECTS,
        seeds=(0, 1),
    )
    return made, write(made)


def test_the_page_needs_nothing_beside_itself(odd):
    _, page = odd
    assert page.references
    assert all(text.startswith(("data:", "#")) for text in page.references)
    assert not re.search(r"url\((?!#)|@import", page.source)


def test_names_are_shown_as_they_are_and_never_as_markup(odd):
    _, page = odd
    assert page.tags.count("script") == 1 and "i" in page.tags
    for name in (ODD_CATEGORY, *ODD_DEFECTS):
        assert name in page.text


def test_the_table_holds_the_results_and_the_papers_figures(odd):
    made, page = odd
    figures = made.results["categories"]["bagel"]
    mean, std = figures["image_auroc"], figures["std"]["image_auroc"]
    assert f"{100 * mean:.1f} ± {100 * std:.1f}" in page.text
    assert "98.3" in page.text
    assert f"{100 * mean - 98.3:+.1f}".replace("-", "\N{MINUS SIGN}") in page.text


def test_alpha_false_alarms_and_recall_are_shown_with_their_intervals(odd):
    made, page = odd
    one = made.evaluations[0]
    alarms = one.calibration.anomalous(one.scores["student"].image)
    count = int(alarms[4:].sum())
    shown = " ".join(page.text)
    assert "≤ 5.0 %" in shown
    assert f"{count} of 12; 95 % interval" in shown


def test_each_category_says_what_its_detector_was_given(odd):
    _, page = odd
    shown = " ".join(page.text)
    assert shown.count("20 good parts") == 2
    assert "4 good, 12 defective in 3 types" in shown
    assert "768 by 768 pixels" in shown and "timm's release, Apache-2.0" in shown
    assert "by more than 7 mm" in shown and "MVTec 3D-AD, CC BY-NC-SA 4.0" in shown


def test_the_oddest_good_parts_are_shown_before_the_curves(odd):
    _, page = odd
    assert page.text.count("The oddest good parts") == 2
    shown = " ".join(page.text)
    assert shown.index("train/good/002") < shown.index("Curves")
    assert "that training has not seen" in shown


def test_configuration_versions_and_seeds_are_shown(odd):
    _, page = odd
    assert "teacher.hidden" in page.text and "jax" in page.text
    assert any("seeds 0, 1" in text for text in page.text)


def test_every_test_image_has_a_strip_and_every_curve_a_file(odd):
    made, _ = odd
    for folder in ("b_w_i_caps_i_", "bagel"):
        files = made.run.directory / "report" / folder
        assert len(list((files / "images").glob("*.jpg"))) == 16
        curves = {path.stem for path in files.glob("*.svg")}
        assert curves == report.CURVES.keys() - {"held_out"}


def test_results_md_has_the_table_and_the_decisions(odd):
    made, _ = odd
    text = (made.run.directory / "report" / "results.md").read_text()
    assert "| bagel |" in text and "| **Mean** |" in text
    assert "held-out good images" in text


def test_without_held_out_images_the_page_says_that_there_is_no_threshold(tmp_path):
    page = write(made_up_run(tmp_path, held_out=0))
    assert any(text.startswith("No threshold: no held-out good") for text in page.text)
    assert "missed" not in page.text


@pytest.mark.parametrize("lacking", ["image", "z"])
def test_a_part_without_one_of_its_pictures_shows_the_other(tmp_path, lacking):
    page = write(made_up_run(tmp_path, each=2, **{lacking: None}))
    names = {"image": "Input", "z": "Depth"}
    shown = names.pop("z" if lacking == "image" else "image")
    assert shown in page.text and not set(names.values()) & set(page.text)


def test_without_ground_truth_the_reason_stands_below_the_table(tmp_path):
    made = made_up_run(tmp_path, each=2, masks=None)
    page = write(made)
    assert "Ground truth" not in page.text
    assert any("ground truth, so there is no Pixel" in text for text in page.text)


@pytest.mark.parametrize("kind", ["good", "bent"])
def test_one_kind_of_test_images_gives_a_page_without_roc(tmp_path, kind):
    page = write(made_up_run(tmp_path, defects=(kind,)))
    assert "ROC" not in page.text and "Image scores" in page.text


def test_without_test_images_the_page_shows_the_calibration_and_says_so(tmp_path):
    page = write(made_up_run(tmp_path, defects=()))
    shown = " ".join(page.text)
    assert "cable_gland: there are no test images, so there are no metrics." in shown
    assert "nothing is known about recall or false alarms" in shown
    assert "from 19 held-out good images" in shown
    assert "Image scores of the held-out good images" in shown
    assert "Loss" not in page.text and "Sort" not in page.text


def test_what_pixel_metrics_leave_out_is_said_below_the_table(tmp_path):
    made = made_up_run(tmp_path, each=2)
    made.results["categories"]["cable_gland"]["notes"] = ["something is left out"]
    assert "cable_gland: something is left out." in write(made).text


def test_a_large_test_set_is_shown_in_part_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "EMBEDDED", 8)
    monkeypatch.setattr(report, "EMBEDDED_EACH", 4)
    page = write(made_up_run(tmp_path))
    assert page.tags.count("li") >= 8
    assert any(text.startswith("8 of 12 test images") for text in page.text)
    assert len(list(tmp_path.rglob("*.jpg"))) == 12


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    made = made_up_run(tmp_path, each=1)
    (tmp_path / "report").write_text("a file")
    with pytest.raises(UserError, match=r"report.*cannot be written"):
        report.write_report(made.run, made.evaluations, made.results)


@pytest.fixture(scope="module")
def window(odd):
    if not (browser.CHROMIUM and browser.DRIVER):
        pytest.skip("needs chromium and chromedriver (Debian: chromium-driver)")
    made, _ = odd
    with browser.browser() as opened:
        opened.page = made.run.directory / "report" / "index.html"
        yield opened


@pytest.fixture
def loaded(window):
    window.open(window.page)
    yield window
    assert window.console() == []


SHOWN = """const gallery = document.querySelector('.gallery');
  return [...gallery.querySelectorAll('.card')]
  .filter((card) => !card.hidden).map((card) => card.dataset[arguments[0]])"""
CHOOSE = """const tools = document.querySelector('.tools');
  tools[arguments[0]].value = arguments[1];
  tools.dispatchEvent(new Event('change', { bubbles: true }));"""
OPEN_FIRST = "document.querySelector('.card:not([hidden]) button').click()"
ZOOMED = """const zoom = document.querySelector('#zoom');
  return zoom.open && {
    name: zoom.querySelector('.name').textContent,
    view: zoom.querySelector('.strip [aria-pressed="true"]').textContent,
    wide: zoom.querySelector('.over').getBoundingClientRect().width }"""
WIDTHS = "return [document.documentElement.scrollWidth, window.innerWidth]"
ESCAPE, LEFT, RIGHT = "\ue00c", "\ue012", "\ue014"


def test_the_page_loads_without_errors_and_every_picture_decodes(loaded):
    broken = """return Promise.all([...document.images].map((image) => {
      image.loading = 'eager'; return image.src ? image.decode() : null;
    })).then(() => 0)"""
    assert loaded.run(broken) == 0


def test_the_gallery_begins_with_the_mistakes(loaded):
    verdicts = loaded.run(SHOWN, "verdict")
    mistakes = [verdict in ("missed", "false alarm") for verdict in verdicts]
    assert any(mistakes) and mistakes == sorted(mistakes, reverse=True)


def test_sorting_orders_the_gallery(loaded):
    for order, falling in (("high", True), ("low", False)):
        loaded.run(CHOOSE, "sort", order)
        scores = [float(text) for text in loaded.run(SHOWN, "score")]
        assert scores == sorted(scores, reverse=falling)
    loaded.run(CHOOSE, "sort", "type")
    kinds = loaded.run(SHOWN, "defect")
    assert all(kinds[4 * i : 4 * i + 4] == [kinds[4 * i]] * 4 for i in range(4))


@pytest.mark.parametrize("defect", ODD_DEFECTS)
def test_choosing_a_defect_type_shows_only_its_images(loaded, defect):
    loaded.run(CHOOSE, "show", f"defect:{defect}")
    assert loaded.run(SHOWN, "defect") == [defect] * 4


def test_the_three_maps_are_shown_in_turn(loaded):
    visible = """const card = document.querySelector('.card');
      return [...card.querySelectorAll('.map img')]
      .filter((image) => image.checkVisibility()).map((image) => image.dataset.view)"""
    for name in report.MAPS:
        loaded.run(CHOOSE, "map", name)
        assert [view for view in loaded.run(visible) if view != "outline"] == [name]


def test_a_click_enlarges_and_keys_move_on(loaded):
    small = loaded.run("return document.querySelector('.card img').width")
    names = loaded.run(SHOWN, "name")
    loaded.run(OPEN_FIRST)
    zoomed = loaded.run(ZOOMED)
    assert zoomed["name"] == names[0] and zoomed["wide"] > 2 * small
    loaded.press(RIGHT)
    assert loaded.run(ZOOMED)["name"] == names[1]
    loaded.press(LEFT, LEFT)
    assert loaded.run(ZOOMED)["name"] == names[-1]
    loaded.press("5")
    assert loaded.run(ZOOMED)["view"] == "Teacher map"
    loaded.press(ESCAPE)
    assert loaded.run(ZOOMED) is False


def test_a_phone_needs_no_sideways_scrolling(loaded):
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    loaded.devtools("Emulation.setDeviceMetricsOverride", **phone)
    page, screen = loaded.run(WIDTHS)
    loaded.devtools("Emulation.clearDeviceMetricsOverride")
    assert page == screen == 390
