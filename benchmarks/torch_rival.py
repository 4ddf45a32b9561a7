"""Serves PyTorch's side of a `side_by_side.Job`, after ours has left its weights:

    python -m benchmarks.torch_rival FOLDER contiguous|channels_last

Uses a GPU if PyTorch sees one. Imports no JAX, so that its memory is PyTorch's.
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks import torch_ast, torch_efficientnet
from benchmarks.common import peak_mb, serve
from benchmarks.side_by_side import Job

FORMATS = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}


class Rival:
    """The job's networks and data, laid out on the device."""

    def __init__(self, job: Job, folder: Path, layout: str):
        """Reads the job's folder."""
        self.job, self.folder, self.layout = job, folder, layout
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tensors = load_file(folder / "weights.safetensors")

    def autocast(self) -> torch.autocast:
        """bfloat16 if the job asks for it."""
        enabled = self.job.torch_dtype == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def network(self, name: str) -> nn.Module:
        """The teacher or the student, in training mode, with our initial weights."""
        job = self.job
        if name == "teacher":
            network = torch_ast.TorchTeacher(
                job.side, job.channels, job.hidden, blocks=job.blocks
            )
        else:
            network = torch_ast.TorchStudent(
                job.side, job.channels, job.width, blocks=job.blocks
            )
        network.load_state_dict(self.weights(name), strict=False)
        network = network.to(self.device, memory_format=FORMATS[self.layout])
        if job.torch_compile:
            network.compile()
        return network

    def weights(self, name: str) -> dict[str, Tensor]:
        """Our initial weights of a network."""
        prefix = f"{name}."
        return {
            key.removeprefix(prefix): value
            for key, value in self.tensors.items()
            if key.startswith(prefix)
        }

    def maps(self, name: str) -> Tensor:
        """Features of the job's folder [n,c,h,w]."""
        maps = torch.from_numpy(np.load(self.folder / f"{name}.npy"))
        maps = maps.permute(0, 3, 1, 2).to(self.device)
        return maps.contiguous(memory_format=FORMATS[self.layout])

    def foreground(self) -> Tensor:
        """[n,h,w]."""
        return torch.from_numpy(np.load(self.folder / "foreground.npy")).to(self.device)

    def teacher_loss(self, teacher: nn.Module, x: Tensor, m: Tensor) -> Tensor:
        """The loss of a batch."""
        with self.autocast():
            z, log_det = teacher(x)
        return torch_ast.negative_log_likelihood(z, log_det, m).mean()

    def student_loss(
        self, student: nn.Module, x: Tensor, m: Tensor, target: Tensor
    ) -> Tensor:
        """The loss of a batch."""
        with self.autocast():
            z_student = student(x)
        return torch_ast.distance(target, z_student, m).mean()

    def memory_mb(self) -> float:
        """Peak memory of the accelerator; without one, of the process."""
        if self.device.type == "cpu":
            return peak_mb()
        return torch.cuda.max_memory_allocated() / 1e6

    def serve(self, functions, **options) -> None:
        """`common.serve`; keeps the first results under the layout's name."""
        keep = self.folder / f"{self.layout}.npz"
        serve(functions, keep=keep, memory_mb=self.memory_mb, **options)


def serve_steps(network: str, rival: Rival) -> None:
    """Train steps on one batch; a call returns their losses."""
    module = rival.network(network)
    optimiser = torch_ast.adam(module)
    arguments = [rival.maps("x"), rival.foreground()]
    loss = rival.teacher_loss
    if network == "student":
        arguments.append(rival.maps("target"))
        loss = rival.student_loss

    def steps() -> np.ndarray:
        losses = [
            torch_ast.step(loss(module, *arguments), optimiser)
            for _ in range(rival.job.steps)
        ]
        return torch.stack(losses).cpu().numpy()

    rival.serve(steps, kept=2)


def serve_scoring(rival: Rival) -> None:
    """The student's upsampled score maps, their maxima and mean scores."""
    teacher, student = (rival.network(name).eval() for name in ("teacher", "student"))
    x, m = np.load(rival.folder / "x.npy"), np.load(rival.folder / "foreground.npy")
    memory_format = FORMATS[rival.layout]

    @torch.inference_mode()
    def call(batch: int) -> np.ndarray:
        # From the host, as ours.
        maps = torch.from_numpy(x[:batch]).to(rival.device).permute(0, 3, 1, 2)
        maps = maps.contiguous(memory_format=memory_format)
        weight = torch.from_numpy(m[:batch]).to(rival.device)
        with rival.autocast():
            z, z_student = teacher(maps)[0], student(maps)
        found = torch_ast.scores(z, z_student, weight)
        return torch.cat([tensor.flatten() for tensor in found]).cpu().numpy()

    batches = rival.job.batches
    rival.serve({str(batch): lambda batch=batch: call(batch) for batch in batches})


def serve_pixels(rival: Rival) -> None:
    """The same of a backbone and both networks, from images."""
    job, memory_format = rival.job, FORMATS[rival.layout]
    backbone, normalisation = torch_efficientnet.load(
        rival.folder / "backbone", rival.device.type
    )
    mean, std = (each.to(rival.device) for each in normalisation)
    extract = torch.compile(backbone.__call__) if job.torch_compile else backbone
    teacher, student = (rival.network(name).eval() for name in ("teacher", "student"))
    images = np.load(rival.folder / "images.npy")

    @torch.inference_mode()
    def call(batch: int) -> np.ndarray:
        x = torch.from_numpy(images[:batch]).to(rival.device).permute(0, 3, 1, 2)
        x = (x.contiguous(memory_format=memory_format) / 255 - mean) / std
        with rival.autocast():
            maps = extract(x)
            z, z_student = teacher(maps)[0], student(maps)
        found = torch_ast.scores(z, z_student, torch.ones_like(z[:, 0]))
        return torch.cat([tensor.flatten() for tensor in found]).cpu().numpy()

    rival.serve({str(n): lambda batch=n: call(batch) for n in job.batches})


def serve_training(rival: Rival) -> None:
    """A whole category; a call returns the first epoch's losses, teacher first."""
    job, x, m = rival.job, rival.maps("x"), rival.foreground()
    with np.load(rival.folder / "orders.npz") as arrays:
        orders = {key: torch.from_numpy(arrays[key]).long() for key in arrays}
    networks = {name: rival.network(name) for name in ("teacher", "student")}
    teacher, student = networks.values()
    memory_format = FORMATS[rival.layout]

    def loss(name: str, rows: Tensor) -> Tensor:
        maps, weight = x[rows].contiguous(memory_format=memory_format), m[rows]
        if name == "teacher":
            return rival.teacher_loss(teacher, maps, weight)
        with torch.no_grad(), rival.autocast():
            target = teacher(maps)[0]
        return rival.student_loss(student, maps, weight, target)

    def train(epochs: int) -> np.ndarray:
        first = []
        for name, network in networks.items():
            network.load_state_dict(rival.weights(name), strict=False)
            rows = orders[name][:epochs].to(rival.device)
            first += torch_ast.train(network, rows, partial(loss, name))[:1]
            torch.save(network.state_dict(), rival.folder / f"{name}.{rival.layout}")
        return np.array(first)

    rival.serve(lambda: train(job.epochs), warm_up=lambda: train(1))


def main(folder: Path, layout: str) -> None:
    """Serves the folder's job."""
    torch.backends.cudnn.benchmark = True
    job = Job.load(folder)
    rival = Rival(job, folder, layout)
    if job.task == "scoring":
        serve_scoring(rival)
    elif job.task == "pixels":
        serve_pixels(rival)
    elif job.task == "training":
        serve_training(rival)
    else:
        serve_steps(job.task.removesuffix("_step"), rival)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
