"""A damaged or hostile file is refused in one line, or gives the same values; no code in it runs."""

import contextlib
import functools
import gzip
import io
import json
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

import numpy as np
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
from agents.runs import command, finished, sample, suite, train
from agents.runs.folder import RunFolder
from baselines import train as baseline
from baselines.build import build_trainer as build_baseline
from baselines.config import BaselineConfig
from gfn_envs import QM9
from gfn_envs.envs.bayesnet import data as bayesnet
from gfn_envs.envs.phylotree import alignment as phylotree
from gfn_envs.envs.qm9 import dag as qm9
from gfn_envs.envs.qm9 import gap
from gfn_envs.envs.qm9blocks import table as qm9blocks
from gfn_envs.envs.rnabinding import binding as rnabinding
from gfn_envs.envs.seh import download
from gfn_envs.envs.tfbind8 import table as tfbind8

SLOWEST, MOST_GIB = 10.0, 2.0
REFUSED = (ValueError, ArithmeticError, ModuleNotFoundError, OSError)
"""What a command line tells in one line (`agents.runs.command`)."""
ALGO = ["--algo", "dqn", "--env-kwargs", '{"dim": 2, "side": 4}', "--trajectories", "40", "--no-progress"]
SUITE = """
seeds = [0, 1]
methods = ["tb+uniform", "random"]
trajectories = 96
[envs.grid]
id = "gfn/Hypergrid-v0"
kwargs = {dim = 2, side = 4}
"""
Read = Callable[[Path], Any]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a finished run of an agent and one of a baseline, and files that a user makes."""
    folder = tmp_path_factory.mktemp("files")
    assert train.main([*SHORT, "--out", str(folder / "run")]) == 0
    assert baseline.main([*ALGO, "--out", str(folder / "baseline")]) == 0
    assert sample.main([str(folder / "run"), "--num", "20", "--out", str(folder / "samples.csv")]) == 0
    (folder / "suite.toml").write_text(SUITE)
    return folder


def read_checkpoint(folder: Path) -> Any:
    """Return the state in an agent's checkpoint, once a run has taken it."""
    files = RunFolder(folder / "run", Config)
    config = files.read_config()
    files.load(build_trainer(config, make_dag(config)))
    return files.state()


def read_baseline(folder: Path) -> Any:
    """Return the state in a baseline's checkpoint, once a run has taken it."""
    files = RunFolder(folder / "baseline", BaselineConfig)
    config = files.read_config()
    files.load(build_baseline(config, make_dag(config)))
    return files.state()


def read_weights(folder: Path) -> Any:
    """Return the weights of a policy."""
    return policy.load(folder / "run")._model.tensors()


def read_text(read: Read) -> Read:
    """Return a reader of a text without a checksum: it may say something else, and that is what is read."""

    def silent(folder: Path) -> None:
        read(folder)

    return silent


def read_run(folder: Path) -> Any:
    """Read a run as a comparison does."""
    return finished.read(folder / "run")


def read_given_settings(folder: Path) -> Any:
    """Read the settings for `--config`."""
    return command.recorded("", str(folder / "run" / "config.json"), Config)


def read_suite(folder: Path) -> Any:
    """Read a suite and plan its runs."""
    return suite.cells(*suite.read(str(folder / "suite.toml")))


def read_samples(folder: Path) -> Any:
    """Read samples to take them apart."""
    trained = policy.load(folder / "run")
    return trained.trajectories_to(sample.read_states(trained, folder / "samples.csv"), 0)


def clear(folder: Path) -> Any:
    """Remove the files of a run; another folder must stay."""
    (folder / "other").mkdir(exist_ok=True)
    (folder / "other" / "kept").touch()
    RunFolder(folder / "run", Config).clear()
    assert (folder / "other" / "kept").exists()


READS: dict[str, tuple[list[Read], int]] = {
    "run/checkpoint.pt": ([read_checkpoint], 1500),
    f"run/{policy.FILE}": ([read_weights], 1600),
    "run/config.json": ([read_checkpoint, read_text(read_run), read_text(read_given_settings)], 1000),
    "run/metrics.jsonl": ([read_text(read_run)], 600),
    "run/columns.json": ([read_text(read_run)], 600),
    "run/summary.json": ([read_text(read_run)], 200),
    "run/files.json": ([clear], 400),
    "baseline/checkpoint.pt": ([read_baseline], 800),
    "suite.toml": ([read_text(read_suite)], 400),
    "samples.csv": ([read_text(read_samples)], 400),
}
"""Who reads a file, and how many of the 10,000 attacks are on it."""


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


@contextlib.contextmanager
def within_limits() -> Iterator[None]:
    """Assert that what is done takes neither long nor much memory."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    yield
    assert time.process_time() - started < SLOWEST
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_GIB * 2**20


def found_by(read: Read, folder: Path) -> Any:
    """Return what a reader finds, or the error that it refuses the file with; the error is one line."""
    with within_limits():
        try:
            found = read(folder)
        except REFUSED as error:
            found = error
    assert not isinstance(found, Exception) or len(str(found).strip().splitlines()) == 1, found
    return found


@pytest.mark.parametrize("name", READS)
def test_damaged_files_are_refused_or_read_alike(
    name: str, files: Path, tmp_path: Path, record_property: Callable
) -> None:
    readers, full = READS[name]
    folder, draw = tmp_path / "copy", random.Random(f"{SEED}{name}")
    shutil.copytree(files, folder)
    whole = [read(files) if read is not clear else None for read in readers]
    others = [(files / other).read_bytes() for other in READS if other != name]
    data, refused, times = (files / name).read_bytes(), 0, number(full)
    for _ in range(times):
        (folder / name).write_bytes(damaged(data, others, draw))
        for read, expected in zip(readers, whole, strict=True):
            found = found_by(read, folder)
            if isinstance(found, Exception):
                refused += 1
            else:
                assert_same(found, expected)
    record_property("count", f"{times} files, {refused} times refused")


PACKAGED: dict[str, tuple[Any, str, Callable[[], Any]]] = {
    "binding scores": (tfbind8, "SCORES", lambda: tfbind8.load_scores()),
    "gaps": (qm9blocks, "GAPS", lambda: qm9blocks.load_gaps()),
    "energies": (rnabinding, "ENERGIES", lambda: rnabinding.load_energies(0)),
    "alignments": (phylotree, "PACKED", lambda: phylotree.read("DS1").sets),
    "measurements": (bayesnet, "_SACHS_FILE", lambda: bayesnet.sachs().values),
    "weights of the gap network": (gap, "WEIGHTS", lambda: gap.load_gap_network().state_dict()),
    "keys of QM9": (qm9, "KNOWN", lambda: QM9()._known),
    "test set of QM9": (qm9, "TEST_SET", lambda: QM9(3).test_states()),
}
"""Files of the package: the module and the constant that name them, and what reads them."""


def changed_tables(data: bytes) -> list[bytes]:
    """Return other lawful files of the same kind: arrays that are swapped, reshaped, of another type, or code."""
    if data[:2] != b"PK":
        return []
    with np.load(io.BytesIO(data)) as file:
        arrays = dict(file)
    names, made = list(arrays), []
    for changed in (
        dict(zip(names, [*list(arrays.values())[1:], arrays[names[0]]], strict=True)),
        {name: np.atleast_1d(array)[None] for name, array in arrays.items()},
        {name: array.astype("f8") if array.dtype.kind in "iu" else array for name, array in arrays.items()},
        {name: np.array([Payload(Path("ran"))], dtype=object) for name in names},
    ):
        packed = io.BytesIO()
        np.savez_compressed(packed, **changed)
        made.append(packed.getvalue())
    return made


@pytest.mark.parametrize("name", PACKAGED)
def test_damaged_files_of_the_package_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable
) -> None:
    module, constant, read = PACKAGED[name]
    data, whole, draw = getattr(module, constant).read_bytes(), read(), random.Random(f"{SEED}{name}")
    file = tmp_path / "file"
    monkeypatch.setattr(module, constant, file)
    file.write_bytes(data)
    assert_equal(read(), whole)
    tried = [*changed_tables(data), bomb("least.npy"), pickle.dumps(Payload(tmp_path / "ran"))]
    tried += [damaged(data, [b"PK"], draw) for _ in range(number(200))]
    for content in tried:
        if content == data:
            continue
        file.write_bytes(content)
        found = found_by(lambda folder: read(), tmp_path)
        assert isinstance(found, ValueError)
        assert "is missing or damaged" in str(found)
    assert os.listdir(tmp_path) == ["file"]
    record_property("count", f"{len(tried)} files")


def assert_equal(found: Any, whole: Any) -> None:
    """Assert that two tensors, arrays or dictionaries of them are equal."""
    for one, other in zip(_parts(found), _parts(whole), strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(other), equal_nan=True)


def _parts(found: Any) -> list[Any]:
    return list(found.values()) if isinstance(found, dict) else list(found) if isinstance(found, tuple) else [found]


CACHED: dict[str, tuple[str, Callable[[], Any]]] = {
    "the published pickle": (download.WEIGHTS.name, download.read_weights),
    "the building blocks": (download.BLOCKS.name, lambda: json.loads(download.fetch(download.BLOCKS).read_text())),
    "the weights read out of the pickle": (download.TENSORS, download.read_weights),
}
"""Files in the cache of downloads, and what reads them."""


@pytest.mark.parametrize("name", CACHED)
@pytest.mark.usefixtures("seh_data")
def test_damaged_downloads_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable
) -> None:
    file, read = CACHED[name]
    weights = download.read_weights()
    originals = {each.name: download.fetch(each).read_bytes() for each in (download.WEIGHTS, download.BLOCKS)}
    originals[download.TENSORS] = (download.cache() / download.TENSORS).read_bytes()
    monkeypatch.setenv(download.VARIABLE, str(tmp_path))
    data, draw = originals[file], random.Random(f"{SEED}{name}")
    swapped = dict(zip(weights, [*list(weights.values())[1:], next(iter(weights.values()))], strict=True))
    tried = [
        gzip.compress(pickle.dumps(Payload(tmp_path / "ran"))), gzip.compress(bytes(2**28), 1), bomb("data"),
        save_tensors(swapped), save_tensors({key: value.flatten().clone() for key, value in weights.items()}),
        *(damaged(data, [b"PK"], draw) for _ in range(number(270))),
    ]  # fmt: skip
    for content in tried:
        (tmp_path / file).write_bytes(content)
        found = found_by(lambda folder: read(), tmp_path)
        if content == data:
            continue
        assert isinstance(found, download.BadFileError)
        assert set(os.listdir(tmp_path)) == {f"{file}.bad"}
    record_property("count", f"{len(tried)} files")


class Payload:
    """Makes a folder where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return os.mkdir, (str(self.path),)


@functools.cache
def bomb(name: str, mib: int = 4096) -> bytes:
    """Return a zip archive whose one file unpacks to so many MiB."""
    made = io.BytesIO()
    with (
        zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(name, "w", force_zip64=True) as file,
    ):
        for _ in range(mib // 16 if SHARE_IS_FULL else 4):
            file.write(bytes(2**24))
    return made.getvalue()


SHARE_IS_FULL = number(100) == 100
RUN_FILES = [name.removeprefix("run/") for name in READS if name.startswith("run/")]


def hostile(run: Path, mark: Path) -> dict[tuple[str, str], bytes]:
    """Return hostile contents by the name of the file and what they try."""
    raw, saved = pickle.dumps(Payload(mark)), io.BytesIO()
    torch.save({"format": "gfn-agents-checkpoint", "version": 2, "state": Payload(mark)}, saved)
    found = {(name, "pickle"): raw for name in RUN_FILES}
    found |= {("checkpoint.pt", "code"): saved.getvalue(), ("checkpoint.pt", "zip bomb"): bomb("data.pkl")}
    content = (run / policy.FILE).read_bytes()
    tensors, about = load_tensors(content), policy_metadata(run)
    first, *_ = (name for name, tensor in tensors.items() if tensor.dim() == 2 and tensor.shape[0] != tensor.shape[1])
    changed = {
        "reshaped": {first: tensors[first].T.contiguous()},
        "flat": {first: tensors[first].flatten()},
        "of another type": {first: tensors[first].double()},
        "of half precision": {first: tensors[first].bfloat16()},
        "of quarter precision": {first: tensors[first].to(torch.float8_e4m3fn)},
        "more": {"more": torch.zeros(3)},
        "empty": {first: torch.zeros(0)},
        "a number": {first: torch.tensor(1.0)},
    }
    for what, new in changed.items():
        found[policy.FILE, what] = save_tensors({**tensors, **new}, metadata=about)
        found[policy.FILE, f"{what}, with a checksum"] = save_tensors(
            {**tensors, **new}, metadata={**about, "checksum": policy._checksum({**tensors, **new})}
        )
        found[policy.FILE, f"{what}, without a checksum"] = save_tensors(
            {**tensors, **new}, metadata={name: value for name, value in about.items() if name != "checksum"}
        )
    found[policy.FILE, "fewer"] = save_tensors({k: v for k, v in tensors.items() if k != first}, metadata=about)
    for env in ("no_such_module:my/Env-v0", "os:system", "../x:y", "gfn/Nothing-v0", "a\nb", ""):
        config = {**json.loads(about["config"]), "env": env}
        found[policy.FILE, f"environment {env!r}"] = save_tensors(
            tensors, metadata={**about, "config": json.dumps(config)}
        )
    return found


def policy_metadata(run: Path) -> dict[str, str]:
    """Return what stands beside the weights in a run's policy."""
    with policy.safe_open(run / policy.FILE, framework="pt") as file:
        return file.metadata()


def test_hostile_files_are_refused_and_run_nothing(files: Path, tmp_path: Path, record_property: Callable) -> None:
    mark = tmp_path / "ran"
    contents = hostile(files / "run", mark)
    for (name, what), data in contents.items():
        shutil.copytree(files, tmp_path / "copy")
        (tmp_path / "copy" / "run" / name).write_bytes(data)
        found = [found_by(read, tmp_path / "copy") for read in READS[f"run/{name}"][0]]
        assert not mark.exists(), (name, what)
        if name in ("checkpoint.pt", policy.FILE):
            assert isinstance(found[0], ValueError), (name, what)
        shutil.rmtree(tmp_path / "copy")
    record_property("count", f"{len(contents)} files")
