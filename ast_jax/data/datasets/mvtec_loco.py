"""MVTec LOCO AD: logical and structural anomalies (Bergmann et al., IJCV 2022)."""

import functools
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Bool

from ast_jax.data.builder import PartsBuilder
from ast_jax.data.content import Content
from ast_jax.data.decode import IMAGE_SUFFIXES, decode_labels
from ast_jax.data.layout import FilesByStem, join_by_stem, keep_good
from ast_jax.data.listing import SPLITS, Listing, Sample
from ast_jax.data.walk import one_form, subfolders
from ast_jax.errors import UserError

CONFIG = "defects_config.json"


class MVTecLOCO(PartsBuilder):
    """Builder of MVTec LOCO AD in the publisher's layout.

    The defect types are "logical_anomalies" and "structural_anomalies". Each defect of
    an image has its own mask, whose grey value names an entry of `defects_config.json`:
    the area from which the defect counts as found in full.
    """

    name = "mvtec_loco"
    TITLE = "MVTec LOCO AD"
    HOMEPAGE = "https://www.mvtec.com/company/research/datasets/mvtec-loco"
    TREE = (
        "CATEGORY/{defects_config.json,{train,validation}/good/000.png,"
        "test/{good,logical_anomalies,structural_anomalies}/000.png,"
        "ground_truth/{logical_anomalies,structural_anomalies}/000/000.png}"
    )
    LICENSE = "CC BY-NC-SA 4.0"
    CITATION = """\
@article{bergmann2022loco,
  title={Beyond Dents and Scratches: Logical Constraints in Unsupervised Anomaly
    Detection and Localization},
  author={Bergmann, Paul and Batzner, Kilian and Fauser, Michael and Sattlegger, David
    and Steger, Carsten},
  journal={International Journal of Computer Vision},
  volume={130},
  number={4},
  pages={947--969},
  year={2022}
}"""
    ACCOMPANYING = (*PartsBuilder.ACCOMPANYING, CONFIG)
    CLASS_NUMBERS = True
    KINDS: ClassVar[Mapping[str, str]] = types.MappingProxyType(
        {"logical": "logical_anomalies", "structural": "structural_anomalies"}
    )

    def list_samples(self) -> Listing:
        """Pairs each image with the masks in the folder of its stem."""
        base = self.root / self.category
        listing = Listing()
        for split in SPLITS:
            folders = subfolders(base / split)
            for folder in folders if split == "test" else keep_good(folders):
                truth = base / "ground_truth" / folder.name
                listing += join_by_stem(
                    split,
                    folder.name,
                    FilesByStem.in_folder(folder, IMAGE_SUFFIXES),
                    masks=_masks(truth),
                )
        return listing

    def source_state(self) -> object:
        """The state of the files, and the content of `defects_config.json`."""
        return [super().source_state(), sorted(self._areas.items())]

    def saturations(self, sample: Sample, content: Content) -> tuple[float, ...]:
        """The saturation area of each defect, by the grey value of its mask.

        Raises:
            UserError: a mask has no grey value, several, or an unknown one.
        """
        paths = sample.masks or ()
        return tuple(
            self._saturation(path, mask)
            for path, mask in zip(paths, content.masks or (), strict=True)
        )

    def _saturation(self, path: Path | bytes, mask: bytes) -> float:
        labels = decode_labels(mask, str(path))
        values = np.unique(labels[labels > 0]).tolist()
        if len(values) != 1 or values[0] not in self._areas:
            raise UserError(
                f"{path}: grey values {values}, expected one of those in "
                f"{CONFIG}: {sorted(self._areas)}"
            )
        threshold, relative = self._areas[values[0]]
        return saturation_area(labels > 0, threshold, relative=relative)

    @functools.cached_property
    def _areas(self) -> dict[int, tuple[float, bool]]:
        """Saturation threshold, and whether it is relative, by grey value."""
        path = self.root / self.category / CONFIG
        try:
            return {
                int(entry["pixel_value"]): (
                    float(entry["saturation_threshold"]),
                    bool(entry["relative_saturation"]),
                )
                for entry in json.loads(path.read_text("utf-8"))
            }
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read ({error.strerror}); expected {self.TREE}"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a {CONFIG} ({error!r})") from error


def _masks(truth: Path) -> FilesByStem:
    """The masks in the folder of each stem."""
    files, problems = {}, []
    for folder in subfolders(truth):
        found = FilesByStem.in_folder(folder, IMAGE_SUFFIXES)
        problems += found.problems
        masks = tuple(path for paths in found.files.values() for path in paths)
        if masks:
            files[one_form(folder.name)] = masks
    return FilesByStem(truth, files, tuple(problems))


def saturation_area(
    mask: Bool[np.ndarray, "h w"], threshold: float | int, *, relative: bool
) -> float:
    """The saturation area in pixels of a defect, as MVTec LOCO's script derives it.

    Args:
      mask: the defect's pixels.
      threshold: `saturation_threshold` of the data set's `defects_config.json`.
      relative: its `relative_saturation`: whether the threshold is a fraction of the
        defect's area (rounded down, but at least one pixel) or a number of pixels.
    """
    area = np.count_nonzero(mask)
    return float(max(1, int(threshold * area)) if relative else min(threshold, area))
