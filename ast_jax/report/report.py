"""The report of a run: a page that needs no network, and its pictures as files.

DIR/report/index.html            tables, curves, and a gallery of the test images
DIR/report/results.md            the tables, for pasting
DIR/report/<category>/*.svg      the curves
DIR/report/<category>/images/    a strip of pictures for every test image
"""

from typing import Any

import jinja2
from markupsafe import Markup

from ast_jax.evaluation.results import Evaluation
from ast_jax.files import UniqueNames, plain_name, write_text
from ast_jax.inference.colours import colour_stops
from ast_jax.report import pictures, provenance, tables
from ast_jax.report.section import MAPS, Section, decisions, section
from ast_jax.report.svg import apply_theme
from ast_jax.run import Run

# Test images in the page: of all categories together, and at least of each.
EMBEDDED, EMBEDDED_EACH = 300, 12
CURVES = {
    "roc": "ROC",
    "precision_recall": "Precision and recall",
    "histogram": "Image scores",
    "held_out": "Image scores of the held-out good images",
    "left_out": "Where the threshold comes from",
    "alpha": "Another rate of false alarms",
    "training": "Training",
}


def write_report(
    run: Run, evaluations: list[Evaluation], results: dict[str, Any]
) -> None:
    """Writes the report of a run into its folder.

    Args:
      run: the run.
      evaluations: of its categories.
      results: the tree of `results.json`.

    Raises:
      UserError: the folder cannot be written, or a test image is damaged.
    """
    directory = run.directory / "report"
    limit = max(EMBEDDED_EACH, EMBEDDED // max(1, len(evaluations)))
    unique = UniqueNames()
    sections = [
        section(run, category, directory / unique(plain_name(category.name)), limit)
        for category in evaluations
    ]
    write_text(directory / "index.html", _page(run, sections, results))
    write_text(directory / "results.md", _markdown(run, sections, results))


def _main_table(run: Run, results: dict[str, Any]) -> tables.Table:
    known = results["paper"]["categories"]
    complete = not run.config.dataset.categories
    if known:
        complete = known.keys() <= results["categories"].keys()
    return tables.main_table(results, complete=complete)


def _page(run: Run, sections: list[Section], results: dict[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ast_jax.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "percent": tables.percent,
        "apply_theme": lambda svg, name: Markup(apply_theme(svg, name)),
        "duration": provenance.duration,
    }
    return environment.get_template("report.html").render(
        title=f"{run.config.dataset.name}, {run.config.mode}",
        lede=provenance.settings(run.config),
        dataset=run.config.dataset.name,
        mode=run.config.mode,
        sections=sections,
        table=_main_table(run, results),
        decisions=decisions(sections),
        all_tables={
            "student": tables.full_table(results),
            "teacher alone": tables.full_table(results["teacher"]),
        },
        seeds=tables.seeds_table(results),
        reasons=tables.reasons(results),
        facts=provenance.facts(run),
        configuration=provenance.configuration(run.config),
        maps=MAPS,
        view_names=pictures.VIEWS,
        curve_names=CURVES,
        colours=colour_stops(),
    )


def _markdown(run: Run, sections: list[Section], results: dict[str, Any]) -> str:
    heading = f"{run.config.dataset.name}, {run.config.mode}"
    lines = [
        f"{heading}; {provenance.settings(run.config)}; per cent.\n",
        _main_table(run, results).markdown(),
        *(f"{reason}\n" for reason in tables.reasons(results)),
    ]
    decided = decisions(sections)
    if decided is not None:
        lines += ["Decisions on the test images, with 95 % intervals.\n"]
        lines += [decided.markdown()]
    return "\n".join(lines)
