"""The folder of a run: damaged and foreign files are refused, other files stay, and a full disk leaves a checkpoint."""

import json
import os
import pickle
import random
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from run_files import RUN_FILES, SHORT, contents, refused, state_of

from agents.config import Config
from agents.policy import FILE, load
from agents.runs import finished as finished_runs
from agents.runs import folder as checkpoint
from agents.runs.finished import UnusableError
from agents.runs.folder import RunFileError, RunFolder
from agents.runs.train import main
from agents.trainer import Trainer

# Damaged and foreign files


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("it-ran"),))


def flip_a_weight(file: Path) -> None:
    data = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
    data[largest.header_offset + 30 + len(largest.filename) + largest.file_size // 2] ^= 1
    file.write_bytes(data)


def rewrite(file: Path, **changes: Any) -> None:
    content = torch.load(file, weights_only=True)
    torch.save({**content, **changes}, file)


def other_settings(file: Path, **changes: Any) -> None:
    config = json.loads(torch.load(file, weights_only=True)["config"])
    rewrite(file, config=json.dumps(config | changes))


def compress(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


DAMAGES = {
    "empty": lambda file: file.write_bytes(b""),
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-1000]),
    "random": lambda file: file.write_bytes(random.Random(0).randbytes(5000)),
    "flipped bit": flip_a_weight,
    "compressed": lambda file: compress(file),
    "folder": lambda file: (file.unlink(), file.mkdir()),
    "foreign": lambda file: torch.save({"weights": torch.zeros(3)}, file),
    "a list": lambda file: torch.save([1, 2], file),
    "pickled code": lambda file: file.write_bytes(pickle.dumps(Evil())),
    "saved code": lambda file: torch.save({"format": checkpoint.FORMAT, "x": Evil()}, file),
    "other version": lambda file: rewrite(file, version=99),
    "no state": lambda file: rewrite(file, state={}),
    "other device": lambda file: rewrite(file, device="cuda"),
    "other seed": lambda file: other_settings(file, seed=5),
    "other reward": lambda file: other_settings(file, env="gfn/HypergridHard-v0"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_or_foreign_checkpoint_is_refused_and_nothing_touched(
    damage: Callable[[Path], object], copy_of_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(copy_of_run / "checkpoint.pt")
    before = contents(copy_of_run)
    message = refused(capsys, "--resume", copy_of_run, "--trajectories", "192")
    assert "checkpoint.pt" in message
    assert "Nothing was changed" in message
    assert "weights_only" not in message  # torch's own text advises to load without protection
    assert contents(copy_of_run) == before
    assert not Path("it-ran").exists()


def test_a_checkpoint_of_other_settings_names_them(copy_of_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DAMAGES["other seed"](copy_of_run / "checkpoint.pt")
    assert "seed is 5 there, 0 here" in refused(capsys, "--resume", copy_of_run)


def test_a_flipped_bit_in_the_weights_of_a_policy_is_found(copy_of_run: Path) -> None:
    file = copy_of_run / FILE
    data = bytearray(file.read_bytes())
    data[-9] ^= 1
    file.write_bytes(data)
    with pytest.raises(RunFileError, match="wrong checksum of the weights"):
        load(copy_of_run)


def test_metrics_that_are_nested_too_deep_are_refused(copy_of_run: Path) -> None:
    (copy_of_run / "metrics.jsonl").write_text("[" * 100_000)
    with pytest.raises(UnusableError, match=r"metrics\.jsonl is damaged"):
        finished_runs.read(copy_of_run)


WRONG_CONFIGS = {
    "": "Expecting value",
    "{": "Expecting property name",
    "[" * 100_000: "recursion",
    "\x00\udcff": "",
    "[]": "the settings must be a JSON object, got []",
    "null": "the settings must be a JSON object, got None",
    "{}": "its settings are not of this project",
    '{"agent": "tb", "optim": {"lr": 0.1}}': "it was written by gfn-envs 0.1",
    '{"format": 3}': "it was written by another version of gfn-envs (format 3)",
    '{"format": "2"}': "it was written by another version of gfn-envs (format '2')",
    '{"format": 2}': "it does not say of which kind of run its settings are",
    '{"format": 2, "kind": "baselines:Run"}': "it holds the settings of another kind of run ('baselines:Run'",
}
WRONG_CONFIGS |= {
    f'{{"format": 2, "kind": "{Config.kind}", {values}}}': reason
    for values, reason in {
        '"agnet": "tb"': "unknown settings: agnet",
        '"optim.lr": 0.1': "unknown settings: optim.lr",
        '"agent.lrr": 0.1': "unknown settings: agent.lrr",
        '"agent": "mdqm"': "Unknown agent 'mdqm'. Known, closest first: mdqn,",
        '"agent": ["tb"]': "--agent must be of type str, got ['tb']",
        '"backward": 3': "--backward must be of type str, got 3",
        '"network": null': "--network must be of type str, got None",
        '"batch_size": "16"': "--batch-size must be of type int, got '16'",
        '"agent_settings": {"lr": 1}': "unknown settings: agent_settings",
        '"eval": 3': "unknown settings: eval",
        '"seed": true': "--seed must be of type int, got True",
    }.items()
}


@pytest.mark.parametrize(("text", "reason"), WRONG_CONFIGS.items(), ids=range(len(WRONG_CONFIGS)))
def test_a_damaged_config_is_refused_and_nothing_touched(
    text: str, reason: str, copy_of_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy_of_run / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    before = contents(copy_of_run)
    message = refused(capsys, "--resume", copy_of_run)
    assert "config.json cannot be used: " in message
    assert reason in message
    assert "Nothing was changed." in message
    assert contents(copy_of_run) == before


def test_a_config_of_a_setting_out_of_range_is_refused(copy_of_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = json.loads((copy_of_run / "config.json").read_text())
    (copy_of_run / "config.json").write_text(json.dumps(settings | {"batch_size": 0}))
    assert "batch-size" in refused(capsys, "--resume", copy_of_run)


# The folder


def test_a_folder_that_holds_a_run_is_refused(copy_of_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(copy_of_run)
    message = refused(capsys, *SHORT, "--out", copy_of_run)
    assert "--resume" in message
    assert "--overwrite" in message
    assert contents(copy_of_run) == before


def test_overwrite_replaces_the_run_and_keeps_other_files(copy_of_run: Path, no_pictures: None) -> None:
    unrelated = {"notes.txt": b"mine", "photo.png": b"mine too", "deeper/config.json": b"{}", ".hidden": b""}
    unrelated["learning_curve.png"] = b"mine by chance, as the run drew none"
    (copy_of_run / "deeper").mkdir()
    for name, data in unrelated.items():
        (copy_of_run / name).write_bytes(data)
    RunFolder(copy_of_run, Config).write("trajectories.png", b"of the old run")
    (copy_of_run / "events.out.tfevents.1").write_bytes(b"of the old run")
    assert main([*SHORT, "--seed", "1", "--out", str(copy_of_run), "--overwrite"]) == 0
    after = contents(copy_of_run)
    assert set(after) == RUN_FILES | set(unrelated)
    assert after.items() >= unrelated.items()
    assert json.loads(after["config.json"])["seed"] == 1


def test_nothing_is_left_of_the_old_run_when_the_new_one_begins(
    copy_of_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Trainer) -> None:
        raise KeyboardInterrupt

    for name in (".checkpoint.pt.123", ".policy.safetensors.123"):
        (copy_of_run / name).write_bytes(b"left half written by a kill")
    monkeypatch.setattr(Trainer, "step", interrupted)
    assert main([*SHORT, "--seed", "1", "--out", str(copy_of_run), "--overwrite"]) == 130
    assert set(contents(copy_of_run)) == {"config.json", "columns.json"}
    with pytest.raises(RunFileError, match="has not been evaluated yet"):
        load(copy_of_run)


@pytest.mark.parametrize("wrong", [["--env-kwargs", '{"side": 1}'], ["--agent.lr", "-1"], ["--tensorboard"]])
def test_overwrite_with_a_mistake_leaves_the_old_run(
    wrong: list[str], copy_of_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    before = contents(copy_of_run)
    refused(capsys, *SHORT, *wrong, "--out", copy_of_run, "--overwrite")
    assert contents(copy_of_run) == before


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert main([*SHORT, "--out", str(out)]) == 1
        assert f"cannot make the folder {out}" in capsys.readouterr().err
    assert contents(tmp_path) == {"file": b"mine"}


@pytest.mark.parametrize("written", [6, 7, 8])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_last_checkpoint_and_no_litter(
    call: str,
    written: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    no_pictures: None,
) -> None:
    working, calls = getattr(os, call), []

    def full(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) > written:  # two of the folder, four of the first evaluation, three of the second
            raise OSError(28, "No space left on device")
        return working(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        assert main([*SHORT, "--out", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    name = ["checkpoint.pt", "policy.safetensors", "metrics.jsonl"][written - 6]
    assert f"cannot write {tmp_path / name}: No space left on device" in message
    assert f"--resume {tmp_path}" in message
    assert set(contents(tmp_path)) == RUN_FILES - {"summary.json"}
    assert state_of(tmp_path)["iteration"] == (12 if written == 6 else 24)
    assert main(["--resume", str(tmp_path), "--no-progress"]) == 0


def test_a_folder_that_cannot_be_written_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path_open = Path.open

    def read_only(self: Path, mode: str = "r", *arguments: Any, **kwargs: Any) -> Any:
        if "w" in mode:
            raise PermissionError(13, "Permission denied", str(self))
        return path_open(self, mode, *arguments, **kwargs)

    monkeypatch.setattr(Path, "open", read_only)
    assert main([*SHORT, "--out", str(tmp_path / "run")]) == 1
    assert f"cannot lock {tmp_path / 'run'}: Permission denied" in capsys.readouterr().err
    assert contents(tmp_path) == {}
