"""Makes the README's pictures from a run: its report, and parts beside their heat maps.

python docs/pictures/make.py --workdir=runs/quickstart --parts=DEFECT/NUMBER,…

Writes report.webp and heat_maps.webp beside this file. Needs Chromium. The parts are
named as the files in DIR/report/CATEGORY/images.
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
WIDTH, HEIGHT = 1180, 1560  # pixels of the page that are shown


def screenshot(page: Path) -> Image.Image:
    """The top of a page as Chromium draws it, in the light theme."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("error: there is no Chromium (Debian: apt install chromium)")
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "page.png"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        flags += [f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={picture}"]
        command = [chromium, *flags, f"--user-data-dir={folder}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        with Image.open(picture) as image:
            return image.convert("RGB")


def stack(paths: list[Path]) -> Image.Image:
    """Pictures of one width below one another."""
    images = [Image.open(path).convert("RGB") for path in paths]
    width = max(image.width for image in images)
    sheet = Image.new("RGB", (width, sum(image.height for image in images)), "white")
    top = 0
    for image in images:
        sheet.paste(image, (0, top))
        top += image.height
    return sheet


def main() -> None:
    """Writes both pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--parts", required=True)
    values = parser.parse_args()
    report = (values.workdir / "report").absolute()
    screenshot(report / "index.html").save(HERE / "report.webp", quality=70, method=6)
    names = [part.replace("/", "_") for part in values.parts.split(",")]
    paths = [next(report.glob(f"*/images/{name}.jpg"), None) for name in names]
    if None in paths:
        raise SystemExit(f"error: no picture of {names[paths.index(None)]} in {report}")
    stack(paths).save(HERE / "heat_maps.webp", quality=80, method=6)
    for name in ("report.webp", "heat_maps.webp"):
        print(HERE / name, (HERE / name).stat().st_size, "bytes")


if __name__ == "__main__":
    main()
