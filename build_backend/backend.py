"""The build backend: setuptools, except that a wheel has `gfn_agents` and `gfn_baselines` for `agents` and `baselines`.

In a wheel everybody's packages lie side by side, and other projects' are called `agents` too. So a wheel is built from
a copy of the sources in which these two packages are renamed, with everything that names them. The repository, the
sdist and an editable installation keep the short names.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

NAMES = {"agents": "gfn_agents", "baselines": "gfn_baselines"}
"""What the packages are called in the repository, and in a wheel."""
COMMANDS = {
    "agents/run.py": "gfn-train",
    "agents/sample.py": "gfn-sample",
    "agents/evaluate.py": "gfn-evaluate",
    "agents/sweep.py": "gfn-sweep",
    "agents/compare.py": "gfn-compare",
    "agents/results.py": "gfn-results",
    "agents/tune.py": "gfn-tune",
    "baselines/run.py": "gfn-baseline",
}
"""The scripts that help texts name, and the commands of a wheel that do the same."""

_PACKAGE = rf"\b({'|'.join(NAMES)})\b"
_MODULE = re.compile(rf"(?<![\w./-]){_PACKAGE}(?=[.:]\w)")
"""A package before one of its names: `agents.config`, `"agents:Metric"`."""
_ALONE = re.compile(rf"(?m)(?<=from ){_PACKAGE}(?= import )|(?<=import ){_PACKAGE}$|(?<=-m ){_PACKAGE}")
"""A package alone: `from agents import registry`, `import agents`, `python -m agents`."""
_SCRIPT = re.compile("(?:python )?(" + "|".join(map(re.escape, COMMANDS)) + ")")


def renamed(code: str) -> str:
    """Return Python code, or the project's settings, with the names that packages and commands have in a wheel."""
    code = _SCRIPT.sub(lambda found: COMMANDS[found[1]], code)
    for pattern in (_ALONE, _MODULE):
        code = pattern.sub(lambda found: NAMES[found[0]], code)
    return code


@contextlib.contextmanager
def _renamed_copy() -> Iterator[None]:
    """Work in a temporary copy of the sdist's files in which the packages are renamed."""
    with tempfile.TemporaryDirectory() as folder:
        sdist = Path(folder, build_meta.build_sdist(folder))
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        root = Path(folder, sdist.name.removesuffix(".tar.gz"))
        for listing in root.glob("*.egg-info"):
            shutil.rmtree(listing)  # it lists the files by their old names
        for file in [root / "pyproject.toml", *(path for name in NAMES for path in (root / name).rglob("*.py"))]:
            file.write_text(renamed(file.read_text(encoding="utf-8")), encoding="utf-8")
        for name, other in NAMES.items():
            (root / name).rename(root / other)
        with contextlib.chdir(root):
            yield


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    """Build a wheel into a folder, and return its name."""
    target = str(Path(wheel_directory).resolve())
    metadata = str(Path(metadata_directory).resolve()) if metadata_directory else None
    with _renamed_copy():
        return build_meta.build_wheel(target, config_settings, metadata)


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: Any = None) -> str:
    """Write the metadata of the wheel into a folder, and return the name of its part."""
    target = str(Path(metadata_directory).resolve())
    with _renamed_copy():
        return build_meta.prepare_metadata_for_build_wheel(target, config_settings)
