"""The overlay shows the part, colours by score, and outlines what is marked."""

import layouts
import numpy as np

from ast_jax.inference import read_part
from ast_jax.inference.calibration import Calibration
from ast_jax.inference.colours import OUTLINE, ColourScale
from ast_jax.inference.heat_map import overlay
from ast_jax.inference.prediction import Prediction

SCALE = ColourScale(0.0, 1.0, calibrated=True)


def predicted(fine, mode="rgb", calibration=None):
    part = read_part.decode(mode, None if mode == "3d" else layouts.picture(0), CLOUD)
    return Prediction(1.0, np.asarray(fine, np.float32), part, calibration)


CLOUD = layouts.cloud(0)
QUIET = np.zeros(layouts.SIZE)
HOT = QUIET.copy()
HOT[layouts.DEFECT] = 2.0
CALIBRATION = Calibration(0.5, (1.0,), (1.0,))


def test_a_quiet_map_shows_the_part_in_grey():
    picture = overlay(predicted(QUIET), SCALE)
    assert (picture == picture[..., :1]).all()
    brightness = layouts.picture(0).mean(-1)
    assert np.corrcoef(picture[..., 0].ravel(), brightness.ravel())[0, 1] > 0.99


def test_high_scores_are_coloured_and_the_rest_is_not():
    quiet, hot = (overlay(predicted(fine), SCALE) for fine in (QUIET, HOT))
    changed = (quiet != hot).any(-1)
    np.testing.assert_array_equal(changed, HOT > 0)
    assert (hot[layouts.DEFECT][..., 0] > hot[layouts.DEFECT][..., 2] + 50).all()


def test_marked_regions_are_outlined_where_there_is_a_threshold():
    picture = overlay(predicted(HOT, calibration=CALIBRATION), SCALE)
    outlined = (picture == OUTLINE).all(-1)
    assert outlined[17, 26:36].all() and outlined[18:28, 25].all()
    assert not outlined[HOT > 0].any()
    assert outlined.sum() == 40
    assert not (overlay(predicted(HOT), SCALE) == OUTLINE).all(-1).any()


def test_without_an_image_the_relief_is_shown():
    picture = overlay(predicted(QUIET, mode="3d"), SCALE)
    assert picture.shape == (*layouts.SIZE, 3)
    assert picture[24, 32, 0] > picture[2, 2, 0] + 50  # the part is nearer
