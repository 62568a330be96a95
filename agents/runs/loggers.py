"""Log metrics to TensorBoard or Weights & Biases; each needs its own optional package."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

EVENT_FILES = "events.out.tfevents.*"
"""Pattern for the names of TensorBoard's files."""


class Logger(Protocol):
    """Receives the metrics of each evaluation from the run's first on; after --resume, the earlier ones again."""

    def log(self, metrics: dict[str, float]) -> None:
        """Log the metrics of one evaluation."""

    def show(self, pictures: Mapping[str, bytes], trajectories: int) -> None:
        """Log the pictures of an evaluation, PNG files by name; those from before a resume do not come again."""

    def close(self) -> None:
        """Write everything that is still pending."""


def require(package: str, what: str = "", extra: str = "") -> None:
    """Raise `ModuleNotFoundError` with the command to install it, unless the optional `package` is installed.

    Args:
        package: the package, which is the name of the module too.
        what: what needs it; by default the flag of its name.
        extra: the extra of this project that has it; by default the one of its name.
    """
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(
            f"{what or '--' + package} needs {package}, which is not installed: "
            f"pip install 'gfn-envs[{extra or package}]'."
        )


def as_image(png: bytes) -> Image.Image:
    """Return a PNG file's content as a picture."""
    return Image.open(io.BytesIO(png)).convert("RGB")


class TensorBoard:
    """Event files in the run's folder, which replace those from before a resume: `tensorboard --logdir runs`."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        for old in folder.glob(EVENT_FILES):
            old.unlink()
        self._writer = SummaryWriter(str(folder))

    def log(self, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, int(metrics["trajectories"]))

    def show(self, pictures: Mapping[str, bytes], trajectories: int) -> None:
        for name, png in pictures.items():
            self._writer.add_image(name, np.asarray(as_image(png)), trajectories, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A Weights & Biases run in the project gfn-envs; WANDB_MODE=offline keeps it local."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        self._run = wandb.init(project="gfn-envs", dir=str(folder), config=settings)

    def log(self, metrics: dict[str, float]) -> None:
        self._run.log(metrics, step=int(metrics["trajectories"]))

    def show(self, pictures: Mapping[str, bytes], trajectories: int) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        self._run.log({name: wandb.Image(as_image(png)) for name, png in pictures.items()}, step=trajectories)

    def close(self) -> None:
        self._run.finish()
