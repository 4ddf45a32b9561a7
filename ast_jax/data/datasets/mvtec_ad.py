"""MVTec AD: fifteen categories of objects and textures (Bergmann et al., CVPR 2019)."""

from ast_jax.data.builder import PartsBuilder
from ast_jax.data.decode import IMAGE_SUFFIXES
from ast_jax.data.layout import FilesByStem, join_by_stem, keep_good
from ast_jax.data.listing import Listing
from ast_jax.data.walk import find_existing, subfolders


class MVTecAD(PartsBuilder):
    """Builder of MVTec AD in the publisher's layout.

    Images are RGB or grey; good parts have no ground truth.
    """

    name = "mvtec_ad"
    TITLE = "MVTec AD"
    HOMEPAGE = "https://www.mvtec.com/company/research/datasets/mvtec-ad"
    TREE = (
        "CATEGORY/{train/good/000.png,test/DEFECT/000.png,"
        "ground_truth/DEFECT/000_mask.png}"
    )
    LICENSE = "CC BY-NC-SA 4.0"
    CITATION = """\
@inproceedings{bergmann2019mvtec,
  title={{MVTec} {AD} -- A Comprehensive Real-World Dataset for Unsupervised Anomaly
    Detection},
  author={Bergmann, Paul and Fauser, Michael and Sattlegger, David and Steger, Carsten},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year={2019}
}"""

    def list_samples(self) -> Listing:
        """Pairs images with `ground_truth` by stem."""
        base = self.root / self.category
        listing = Listing()
        for split in ("train", "test"):
            folders = subfolders(base / split)
            for folder in folders if split == "test" else keep_good(folders):
                truth = find_existing(base / "ground_truth" / folder.name)
                listing += join_by_stem(
                    split,
                    folder.name,
                    FilesByStem.in_folder(folder, IMAGE_SUFFIXES),
                    masks=FilesByStem.in_folder(truth, IMAGE_SUFFIXES, ending="_mask"),
                )
        return listing
