"""Evaluates one category of a run: its calibration, its figures, its odd parts."""

from absl import logging

from ast_jax import data
from ast_jax.evaluation.results import Evaluation, evaluate_scores
from ast_jax.features.category import Category
from ast_jax.inference.category import calibrate_category, score_test_images
from ast_jax.inference.oddest import oddest_good_parts, oddest_left_out
from ast_jax.run import Run


def evaluate_category(
    run: Run, category: Category, *, recalibrate: bool = False
) -> Evaluation:
    """Calibrates a category and computes its figures, over the run's seeds.

    Keeps the calibration that the run has, unless `recalibrate`. Without test images
    there are no figures.

    Raises:
      UserError: there is no trained pair.
    """
    ensemble, calibration, left_out = calibrate_category(
        run, category, keep=not recalibrate
    )
    scores = score_test_images(ensemble, category)
    parts = category.parts["test"]
    kinds = data.builder_class(category.config.dataset.name).KINDS
    figures = evaluate_scores(parts, scores, kinds)
    splits = {
        split: parts.summary
        for split, parts in category.parts.items()
        if len(parts) or parts.notes
    }
    if left_out.parts and calibration is not None:
        oddest = oddest_left_out(left_out, calibration)
    else:
        oddest = oddest_good_parts(run, category, ensemble)
    evaluation = Evaluation(
        *(category.name, parts, scores.combined, figures, calibration),
        oddest=oddest,
        splits=splits,
        left_out=left_out,
    )
    if odd := evaluation.odd_parts:
        logging.warning(
            "%s: %d good images stand out; look at them before you trust the threshold "
            "(dataset.exclude leaves images out): %s",
            *(category.name, len(odd), ", ".join(odd)),
        )
    return evaluation
