"""A damaged or hostile file is refused in one line, or gives the same values; no code in it runs."""

import contextlib
import io
import os
import pickle
import random
import resource
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from attack import SEED, number
from run_files import SHORT, assert_same
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from agents import policy
from agents.build import build_trainer
from agents.config import Config
from agents.model import make_dag
from agents.runs import finished, train
from agents.runs.folder import RunFolder

FULL = 10_000
SLOWEST, MOST_GIB = 10.0, 2.0


class Payload:
    """Makes a folder where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run."""
    folder = tmp_path_factory.mktemp("files") / "run"
    assert train.main([*SHORT, "--out", str(folder)]) == 0
    return folder


def damaged(data: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """Return a file's content damaged in one of many ways."""
    at, end = sorted(draw.randrange(len(data)) for _ in range(2))
    bits = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 8])):
        bits[draw.randrange(len(bits))] ^= 1 << draw.randrange(8)
    ways = [
        bytes(bits), bytes(bits), bytes(bits), data[:at], data[at:], data[:at] + data[end:], b"", b"\0" * len(data),
        data[:at] + bytes(end - at) + data[end:], data + data, data[:at] + data[at:end] * 2 + data[end:],
        draw.randbytes(draw.randrange(2000)), draw.choice(others), b"[" * 100_000, b"1" * 5000, b'{"a": 1}', b"null",
    ]  # fmt: skip
    return draw.choice(ways)


def read_all(folder: Path) -> dict[str, Any]:
    """Return what every reader finds in the folder of a run, or the error that it refuses the folder with."""
    files = RunFolder(folder, Config)

    def checkpoint() -> Any:
        config = files.read_config()
        files.load(build_trainer(config, make_dag(config)))
        return files.state()

    def weights() -> Any:
        loaded = policy.load(folder)
        return loaded._model.tensors()

    readers = {"checkpoint": checkpoint, "weights": weights, "run": lambda: finished.read(folder)}
    found: dict[str, Any] = {}
    for name, reader in readers.items():
        try:
            found[name] = reader()
        except (ValueError, ArithmeticError, ModuleNotFoundError, OSError) as error:
            found[name] = error
    return found


@contextlib.contextmanager
def within_limits() -> Iterator[None]:
    """Assert that what is done takes neither long nor much memory."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    yield
    assert time.process_time() - started < SLOWEST
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_GIB * 2**20


NAMES = ("checkpoint.pt", policy.FILE, "config.json", "metrics.jsonl", "columns.json", "summary.json", "files.json")


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_are_refused_or_read_alike(
    name: str, run: Path, tmp_path: Path, record_property: Callable
) -> None:
    whole, draw = read_all(run), random.Random(f"{SEED}{name}")
    others = [(run / other).read_bytes() for other in NAMES if other != name]
    data, refused, times = (run / name).read_bytes(), 0, number(FULL // len(NAMES))
    shutil.copytree(run, tmp_path / "run")
    for _ in range(times):
        (tmp_path / "run" / name).write_bytes(damaged(data, others, draw))
        with within_limits():
            found = read_all(tmp_path / "run")
        errors = {reader: value for reader, value in found.items() if isinstance(value, Exception)}
        assert all(len(str(error).strip().splitlines()) == 1 for error in errors.values()), errors
        refused += bool(errors)
        for reader in {"checkpoint", "weights"} - set(errors):
            assert_same(found[reader], whole[reader])
    record_property("count", f"{times} files, {refused} refused")


def hostile(run: Path, mark: Path) -> dict[tuple[str, str], bytes]:
    """Return hostile contents by the name of the file and what they try."""
    raw = pickle.dumps(Payload(mark))
    saved, bomb = io.BytesIO(), io.BytesIO()
    torch.save({"format": "gfn-agents-checkpoint", "version": 2, "state": Payload(mark)}, saved)
    with (
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("data.pkl", "w", force_zip64=True) as file,
    ):
        for _ in range(256):
            file.write(bytes(2**24))
    found = {(name, "pickle"): raw for name in NAMES}
    found |= {("checkpoint.pt", "code"): saved.getvalue(), ("checkpoint.pt", "zip bomb"): bomb.getvalue()}
    content = (run / policy.FILE).read_bytes()
    tensors, about = load_tensors(content), policy_metadata(run)
    del about["checksum"]  # as an attacker could
    first, *_ = (name for name, tensor in tensors.items() if tensor.dim() == 2 and tensor.shape[0] != tensor.shape[1])
    changed = {
        "reshaped": {first: tensors[first].T.contiguous()},
        "flat": {first: tensors[first].flatten()},
        "of another type": {first: tensors[first].double()},
        "more": {"more": torch.zeros(3)},
    }
    for what, new in changed.items():
        found[policy.FILE, what] = save_tensors({**tensors, **new}, metadata=about)
    found[policy.FILE, "fewer"] = save_tensors({k: v for k, v in tensors.items() if k != first}, metadata=about)
    return found


def policy_metadata(run: Path) -> dict[str, str]:
    """Return what stands beside the weights in a run's policy."""
    with policy.safe_open(run / policy.FILE, framework="pt") as file:
        return file.metadata()


def test_hostile_files_are_refused_and_run_nothing(run: Path, tmp_path: Path, record_property: Callable) -> None:
    mark, readers = tmp_path / "ran", {"checkpoint.pt": "checkpoint", policy.FILE: "weights"}
    contents = hostile(run, mark)
    for (name, what), data in contents.items():
        shutil.copytree(run, tmp_path / "run")
        (tmp_path / "run" / name).write_bytes(data)
        with within_limits():
            found = read_all(tmp_path / "run")
        assert not mark.exists(), (name, what)
        if name in readers:
            assert isinstance(found[readers[name]], ValueError), (name, what)
        shutil.rmtree(tmp_path / "run")
    record_property("count", f"{len(contents)} files")
