"""From images on disk to AUROCs in plain PyTorch: the other side of `end_to_end`.

    python -m benchmarks.torch_pipeline FOLDER contiguous|channels_last

As one would write it with timm's network, Pillow and scikit-learn: features once, the
teacher, the student with the teacher's forward pass in each step, scores, AUROCs.
"""

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from benchmarks import torch_ast, torch_efficientnet
from benchmarks.common import serve

FORMATS = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}
BATCH = 8


class Pipeline:
    """The folder's job in one memory format."""

    def __init__(self, folder: Path, layout: str):
        """Reads the job and the backbone."""
        self.folder, self.memory_format = folder, FORMATS[layout]
        self.job = json.loads((folder / "job.json").read_text())
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.backbone, normalisation = torch_efficientnet.load(folder, self.device)
        self.mean, self.std = normalisation
        (self.root,) = (folder / "data").iterdir()
        self.start = load_file(folder / "start" / "weights.safetensors")
        with np.load(folder / "start" / "orders.npz") as arrays:
            self.orders = {
                key: torch.from_numpy(arrays[key]).long().to(self.device)
                for key in arrays
            }

    def run(self) -> np.ndarray:
        """Runs all; returns first epochs' losses, image and pixel AUROC."""
        x = self.features(sorted((self.root / "train" / "good").iterdir()))
        teacher, student = self.networks(x)
        losses = torch_ast.train(
            teacher, self.orders["teacher"], partial(teacher_loss, teacher, x)
        )[:1]
        losses += torch_ast.train(
            student, self.orders["student"], partial(student_loss, teacher, student, x)
        )[:1]
        figures = self.evaluate(teacher, student)
        (self.folder / "torch_results.json").write_text(json.dumps(figures))
        return np.array([*losses, *figures.values()])

    @torch.no_grad()
    def features(self, paths: list[Path]) -> Tensor:
        """The images' feature maps [n,c,h,w]."""
        maps = []
        for first in range(0, len(paths), BATCH):
            images = torch.stack([self.read(p) for p in paths[first : first + BATCH]])
            images = images.to(self.device, memory_format=self.memory_format)
            maps.append(self.backbone(images))
        return torch.cat(maps).contiguous(memory_format=self.memory_format)

    def read(self, path: Path) -> Tensor:
        """An image at the network's size, normalised [3,s,s]."""
        size = 2 * (self.job["size"],)
        image = Image.open(path).convert("RGB").resize(size, Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return (pixels / 255 - self.mean) / self.std

    def networks(self, x: Tensor) -> tuple[nn.Module, nn.Module]:
        """Teacher and student with our initial weights."""
        channels, side = x.shape[1], x.shape[2]
        made = {
            "teacher": torch_ast.TorchTeacher(side, channels),
            "student": torch_ast.TorchStudent(side, channels, self.job["width"]),
        }
        for name, network in made.items():
            state = {
                key.removeprefix(f"{name}."): value
                for key, value in self.start.items()
                if key.startswith(f"{name}.")
            }
            network.load_state_dict(state, strict=False)
            network.to(self.device, memory_format=self.memory_format)
        return made["teacher"], made["student"]

    @torch.inference_mode()
    def evaluate(self, teacher: nn.Module, student: nn.Module) -> dict[str, float]:
        """Image AUROC by the mean score; with masks pixel AUROC at 8 times the map."""
        paths = sorted((self.root / "test").glob("*/*.png"))
        x = self.features(paths)
        maps, means = [], []
        for batch in x.split(BATCH):
            m = torch.ones_like(batch[:, 0])
            scores = torch_ast.scores(teacher(batch)[0], student(batch), m)
            maps.append(scores[0].cpu())
            means.append(scores[2].cpu())
        bad = [path.parent.name != "good" for path in paths]
        figures = {"image_auroc": roc_auc_score(bad, torch.cat(means))}
        if (self.root / "ground_truth").is_dir():
            auroc = self.pixel_auroc(paths, torch.cat(maps))
            figures["pixel_auroc_192"] = auroc
        return figures

    def pixel_auroc(self, paths: list[Path], maps: Tensor) -> float:
        """The AUROC of all pixels of the maps [n,h,w]."""
        truths = []
        for path in paths:
            truth = torch.zeros(maps.shape[1:])
            if path.parent.name != "good":
                truth = self.read_truth(path, maps.shape[-1])
            truths.append(truth)
        truths = torch.stack(truths) > 0
        return roc_auc_score(truths.flatten(), maps.flatten())

    def read_truth(self, path: Path, side: int) -> Tensor:
        """The ground truth [side,side]; every touched pixel is above 0."""
        mask = self.root / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
        pixels = torch.from_numpy(np.array(Image.open(mask), np.float32))
        return F.interpolate(pixels[None, None], size=(side, side), mode="bilinear")[
            0, 0
        ]


def teacher_loss(teacher: nn.Module, x: Tensor, rows: Tensor) -> Tensor:
    """The loss of some rows, without a mask."""
    z, log_det = teacher(x[rows])
    m = torch.ones_like(log_det)
    return torch_ast.negative_log_likelihood(z, log_det, m).mean()


def student_loss(
    teacher: nn.Module, student: nn.Module, x: Tensor, rows: Tensor
) -> Tensor:
    """The loss of some rows, without a mask."""
    with torch.no_grad():
        z = teacher(x[rows])[0]
    return torch_ast.distance(z, student(x[rows]), torch.ones_like(z[:, 0])).mean()


if __name__ == "__main__":
    pipeline = Pipeline(Path(sys.argv[1]), sys.argv[2])
    keep = Path(sys.argv[1]) / f"{sys.argv[2]}.npz"
    serve(pipeline.run, keep=keep, first_calls=pipeline.job["first_calls"])
