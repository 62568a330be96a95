"""The published files of the sEH task: downloaded once, checked, and kept in a cache.

Source: the repository GFNOrg/gflownet (MIT licence, Copyright (c) 2022 Emmanuel Bengio) at a pinned commit: the weights
of the proxy and the list of 105 building blocks of Bengio et al. 2021 (arXiv 2106.04399).
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import pickle
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pooch
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from gfn_envs.envs.seh.proxy import SHAPES

VARIABLE = "GFN_ENVS_CACHE"
"""The environment variable that names the folder of downloaded files."""
TIMEOUT = 30.0
"""Seconds that a server may be silent."""


@dataclass(frozen=True)
class RemoteFile:
    """A public file whose contents are known by their hash."""

    name: str
    """What it is called in the cache."""
    url: str
    sha256: str


_COMMIT = "https://raw.githubusercontent.com/GFNOrg/gflownet/3ba65d243bb2e4fe77b3b93dc5f1634fd3ea5ea6"
WEIGHTS = RemoteFile(
    "seh_proxy_best_params.pkl.gz",
    f"{_COMMIT}/mols/data/pretrained_proxy/best_params.pkl.gz",
    "f76ab480b62e23dda04fd45fefe0e7ae2374b3f8c3f18fb7e00651cad05b9e1f",
)
BLOCKS = RemoteFile(
    "blocks_PDB_105.json",
    f"{_COMMIT}/mols/data/blocks_PDB_105.json",
    "0fcc09130c2e03046ecf3ccc6cb5f903abdb912a541b3f9f2d4578ab01453b88",
)
TENSORS = "seh_proxy.safetensors"
"""What the weights are called in the cache once they are read out of the pickle."""
TENSORS_SHA256 = "d67226a10647044dc461c1003159040234f2b2222270dcbea162a3e78a96f9b7"
"""What `tensors_hash` gives for the weights."""


class BadFileError(ValueError):
    """A file whose contents are not the published ones."""


def cache() -> Path:
    """Return the folder of downloaded files: `GFN_ENVS_CACHE`, or the user's cache folder."""
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser() if named else Path(pooch.os_cache("gfn-envs"))


def fetch(file: RemoteFile) -> Path:
    """Return the path of `file` in the cache, downloading it where it is missing.

    Raises `FileNotFoundError` if it is missing and cannot be downloaded, and `BadFileError` if its contents are not the
    published ones. The bad file is then renamed to `*.bad`.
    """
    path = cache() / file.name
    if not path.is_file():
        _download(file, path)
    _check(path, file.sha256, pooch.file_hash(str(path)), "put the published one there, or run again to download it")
    return path


def read_weights() -> dict[str, Tensor]:
    """Return the published weights of the proxy by the names of `proxy.SHAPES`, float32.

    `read_arrays` reads the published pickle once. Later calls read a safetensors file beside it. Raises the errors of
    `fetch`.
    """
    path = cache() / TENSORS
    if path.is_file():
        return _read_tensors(path)
    arrays = read_arrays(gzip.decompress(fetch(WEIGHTS).read_bytes()))
    weights = {name: torch.from_numpy(array) for name, array in zip(SHAPES, arrays, strict=True)}
    # If the cache cannot be written to, the weights are returned without the file.
    with contextlib.suppress(OSError), _aside(path) as part:
        part.write_bytes(safetensors.torch.save(weights))
        part.replace(path)
    return weights


class _ArrayUnpickler(pickle.Unpickler):
    """Reads numpy arrays and plain containers; any other name in the pickle is an error, and nothing of it runs."""

    # The module's name differs between numpy 1 and 2, the function is the one that numpy itself pickles with.
    _known = {  # noqa: RUF012  (never changed)
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in self._known:
            raise pickle.UnpicklingError(f"it names {module_name}.{global_name}, which no array needs")
        return self._known[module_name, global_name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to an object outside the file")


def read_arrays(data: bytes) -> list[np.ndarray]:
    """Return the arrays of a pickled list of numpy arrays; `BadFileError` for a pickle of anything else."""
    try:
        arrays = _ArrayUnpickler(io.BytesIO(data)).load()
    except Exception as error:  # a broken pickle may raise anything
        raise BadFileError(f"The pickle does not hold numpy arrays alone, it was not read: {error}.") from error
    if not isinstance(arrays, list) or not all(type(array) is np.ndarray for array in arrays):
        raise BadFileError(f"The pickle holds {type(arrays).__name__}, not a list of numpy arrays.")
    return arrays


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the weights in the safetensors file at `path`, checked by their hash."""
    try:
        weights = safetensors.torch.load_file(path)
        found = tensors_hash(weights)
    except safetensors.SafetensorError as error:
        _refuse(path, f"it cannot be read ({error})", "run again to make it anew")
    _check(path, TENSORS_SHA256, found, "run again to make it anew")
    return weights


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and values of tensors, whatever format keeps them."""
    values = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        values.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        values.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return values.hexdigest()


def _download(file: RemoteFile, path: Path) -> None:
    """Download `file` to `path`, which holds the whole of it or nothing."""
    try:
        with _aside(path) as part:
            pooch.HTTPDownloader(timeout=TIMEOUT)(file.url, str(part), None)
            part.replace(path)
    except OSError as error:  # `requests` raises these as well
        others = [each for each in (BLOCKS, WEIGHTS) if each != file and not (path.parent / each.name).is_file()]
        missing = [file, *others]
        listed = "\n".join(f"  {each.url} (SHA-256 {each.sha256})" for each in missing)
        raise FileNotFoundError(
            f"{file.name} is not in {path.parent}, and cannot be downloaded: {error}.\nOn a machine with a network, "
            f"download\n{listed}\nand save as {' and '.join(each.name for each in missing)} in {path.parent}, or name "
            f"the folder that holds them in the environment variable {VARIABLE}."
        ) from None


@contextlib.contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` for an unfinished file of this process alone; remove that file if it remains."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def _check(path: Path, expected: str, found: str, remedy: str) -> None:
    """Raise `BadFileError` and rename the file at `path` to `*.bad` unless its hash is the expected one."""
    if found != expected:
        _refuse(path, f"their SHA-256 is {found}, not {expected}", remedy)


def _refuse(path: Path, reason: str, remedy: str) -> NoReturn:
    kept = path.with_name(f"{path.name}.bad")
    try:
        path.replace(kept)
        where = f"It is kept as {kept}"
    except OSError as error:
        where = f"It cannot be renamed ({error}), remove it"
    raise BadFileError(f"{path} is refused, its contents are not the published ones: {reason}. {where}; {remedy}.")
