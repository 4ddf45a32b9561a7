"""Disks for tests, too small or read-only. Only root may mount them."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """A disk of `size` (tmpfs's words: "1m") at an existing folder; skips without."""
    if os.geteuid():
        pytest.skip("only root mounts a small disk")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def make_read_only(folder: Path) -> None:
    """Makes a mounted disk read-only."""
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


def fill(folder: Path, leave: int) -> None:
    """Fills a mounted disk up to some free bytes."""
    status = os.statvfs(folder)
    size = status.f_bavail * status.f_frsize - leave
    (folder / "filler").write_bytes(bytes(max(0, size)))
