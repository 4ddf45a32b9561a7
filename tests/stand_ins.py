"""A stand-in of any data set, with the configuration that reads it."""

from pathlib import Path

import layouts
from ml_collections import ConfigDict

MAKERS = {
    "mvtec_3d_ad": (layouts.mvtec_3d_ad, "bagel"),
    "mvtec_ad": (layouts.mvtec_ad, "screw"),
    "visa": (layouts.visa, "candle"),
    "mvtec_loco": (layouts.mvtec_loco, "pushpins"),
    "folder": (layouts.folder, "bolts"),
}


def config(name: str, tmp_path: Path, **changes) -> ConfigDict:
    return ConfigDict(
        {
            "name": name,
            "root": str(tmp_path / "source"),
            "categories": (),
            "data_dir": str(tmp_path / "prepared"),
        }
        | changes
    )


def make(name: str, tmp_path: Path, **options) -> tuple[ConfigDict, str]:
    """Write a stand-in; return its configuration and category."""
    maker, category = MAKERS[name]
    source = tmp_path / "source"
    if name == "folder":
        source = tmp_path / category
        maker(source, **options)
    else:
        maker(source, category, **options)
    return config(name, tmp_path, root=str(source)), category


def nothing_is_left(tmp_path: Path) -> bool:
    return not [path for path in (tmp_path / "prepared").rglob("*") if path.is_file()]
