"""MVTec 3D-AD: ten categories with point clouds (Bergmann et al., VISAPP 2022)."""

from ast_jax.data.builder import PartsBuilder
from ast_jax.data.decode import DEPTH_SUFFIXES, IMAGE_SUFFIXES
from ast_jax.data.layout import FilesByStem, join_by_stem, keep_good
from ast_jax.data.listing import SPLITS, Listing
from ast_jax.data.walk import subfolders


class MVTec3DAD(PartsBuilder):
    """Builder of MVTec 3D-AD in the publisher's layout.

    Ground truth holds a class number for each defect; it is all zero for good parts.
    """

    name = "mvtec_3d_ad"
    TITLE = "MVTec 3D-AD"
    HOMEPAGE = "https://www.mvtec.com/company/research/datasets/mvtec-3d-ad"
    TREE = (
        "CATEGORY/{train,validation,test}/DEFECT/{rgb/000.png,xyz/000.tiff,gt/000.png}"
    )
    LICENSE = "CC BY-NC-SA 4.0"
    CITATION = """\
@inproceedings{bergmann2022mvtec3d,
  title={The {MVTec} {3D-AD} Dataset for Unsupervised {3D} Anomaly Detection and
    Localization},
  author={Bergmann, Paul and Jin, Xin and Sattlegger, David and Steger, Carsten},
  booktitle={Proceedings of the 17th International Joint Conference on Computer Vision,
    Imaging and Computer Graphics Theory and Applications (VISAPP)},
  year={2022}
}"""
    CLASS_NUMBERS = True
    ACCOMPANYING = (*PartsBuilder.ACCOMPANYING, "camera_parameters.json")
    HAS_DEPTH = True

    def list_samples(self) -> Listing:
        """Pairs `rgb`, `xyz` and `gt` by stem."""
        listing = Listing()
        for split in SPLITS:
            folders = subfolders(self.root / self.category / split)
            for folder in folders if split == "test" else keep_good(folders):
                clouds = FilesByStem.in_folder(folder / "xyz", DEPTH_SUFFIXES)
                listing += join_by_stem(
                    split,
                    folder.name,
                    FilesByStem.in_folder(folder / "rgb", IMAGE_SUFFIXES),
                    clouds=clouds if self.depth else None,
                    masks=FilesByStem.in_folder(folder / "gt", IMAGE_SUFFIXES),
                )
        return listing
