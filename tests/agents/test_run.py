"""The command line: what it writes, prints and refuses, and that a stopped run goes on bit-identically."""

import dataclasses
import json
import math
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import gymnasium
import pytest
import torch
from matplotlib.image import imread

import gfn_envs
from agents import build
from agents.config import Config, flatten, preset
from agents.runs import folder as checkpoint
from agents.runs import report
from agents.runs.folder import PICTURES, RunFolder
from agents.runs.train import Options, main, parse
from agents.trainer import Trainer
from gfn_envs import registry

SCRIPT = Path(__file__).parents[2] / "agents" / "run.py"
PROMISED_METRICS = {
    "trajectories", "seconds", "iterations_per_second", "loss", "backward_loss", "l1_empirical", "l1_exact",
    "total_variation_exact", "kl_exact", "log_z_estimate", "log_z_error", "mean_reward", "unique_states",
}  # fmt: skip
TIMES = {"seconds", "iterations_per_second", "test_seconds"}
DRAWN = sorted(set(PICTURES) - {"likelihood.png", "top_molecules.png"})  # a grid has no test set, and no molecules
RUN_FILES = {"config.json", "metrics.jsonl", "checkpoint.pt", "summary.json", *DRAWN}

BASE = ["--env-kwargs", '{"dim": 2, "side": 4}', "--batch-size", "4", "--eval-every", "12", "--net.width", "8"]
BASE += ["--no-progress"]
MDQN = [*BASE, "--learning-starts", "3", "--dqn.replay-capacity", "150", "--dqn.replay-batch", "16"]
COMBINATIONS = {
    "mdqn+tlm": MDQN,
    "mdqn+pessimistic": [*MDQN, "--backward", "pessimistic", "--dqn.target-every", "5"],
    "db+naive": [*BASE, "--agent", "db", "--backward", "naive", "--epsilon", "0.5", "--epsilon-trajectories", "150"],
    "tb+maxent": [*BASE, "--agent", "tb", "--backward", "maxent", "--pb.no-exact-maxent"],
}
SHORT = [*BASE, "--agent", "tb", "--backward", "uniform", "--trajectories", "96"]

GRIDS = """
import importlib.util, math, pathlib, torch
import agents, gfn_envs
from gfn_envs import Hypergrid

class Failing(Hypergrid):
    def __init__(self, after=10**9, value=math.nan, device="cpu"):
        super().__init__(dim=2, side=4, device=device)
        self.calls, self.after, self.value = 0, after, value
    def log_reward(self, states):
        self.calls += 1
        log_reward = super().log_reward(states)
        return log_reward if self.calls <= self.after else torch.full_like(log_reward, self.value)

gfn_envs.register("my/Grid-v0", "my_grids:Failing")

folder = pathlib.Path(agents.__file__).parent
SHADOWED = [
    path.stem
    for path in folder.glob("*.py")
    if (spec := importlib.util.find_spec(path.stem)) and spec.origin and pathlib.Path(spec.origin).parent == folder
]
assert not SHADOWED, SHADOWED
"""


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr(report, "draw_all", lambda trainer, folder: [])


@pytest.fixture
def my_grids(tmp_path, monkeypatch):
    """A user's module in a folder on the path; what it registers is forgotten after the test."""
    (tmp_path / "my_grids.py").write_text(GRIDS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_ROWS", dict(registry._ROWS))
    yield "my_grids:my/Grid-v0"
    sys.modules.pop("my_grids", None)
    gymnasium.registry.pop("my/Grid-v0", None)


def start(*arguments, **kwargs):
    """Start the command line as a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **kwargs,
    )  # fmt: skip


def wait_for_evaluation(process, folder, number):
    """Wait until the run has written that many evaluations."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / "metrics.jsonl").exists() and len(metrics_of(folder)) >= number:
            return
        time.sleep(0.001)
    raise AssertionError(f"ended or hung before evaluation {number}: {process.communicate()}")


def metrics_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def untimed(metrics):
    return [{name: value for name, value in row.items() if name not in TIMES} for row in metrics]


def state_of(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)["state"]


def assert_same(a, b, where="state"):
    """Assert that two nests of tensors and numbers are equal to the last bit."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def assert_same_run(a, b):
    """Assert that two folders hold the same metrics and the same complete state, but for the clock."""
    assert untimed(metrics_of(a)) == untimed(metrics_of(b))
    one, other = state_of(a), state_of(b)
    for state in (one, other):
        del state["seconds"]
        state["history"] = untimed(state["history"])
    assert_same(one, other)


def contents(folder):
    """Every file of a folder, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(capsys, *arguments):
    """Return the message of a command that must end with code 2 and no traceback."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:  # tyro's own way to refuse
        code = stop.code
    message = capsys.readouterr().err
    assert code == 2, message
    assert "Traceback" not in message
    return re.sub(r"[\s│]+", " ", message)


# What a run leaves


def test_a_script_run_from_any_folder_leaves_everything_promised(tmp_path):
    (tmp_path / "my_grids.py").write_text(GRIDS)
    process = start("--env", "my_grids:my/Grid-v0", "--trajectories", 96, *BASE[2:], "--out", "here", cwd=tmp_path)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert errors == ""
    folder = tmp_path / "here"
    assert set(contents(folder)) == RUN_FILES
    rows = metrics_of(folder)
    assert [row["trajectories"] for row in rows] == [48, 96]
    assert all(row.keys() >= PROMISED_METRICS for row in rows)
    for name in DRAWN:
        height, width, _ = imread(folder / name, format="png").shape
        assert height > 300
        assert width > 600
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["l1_exact"] == rows[-1]["l1_exact"]
    assert (summary["agent"], summary["backward"], summary["seed"]) == ("mdqn", "tlm", 0)
    settings = json.loads((folder / "config.json").read_text())
    assert (settings["env"], settings["trajectories"], settings["net"]["width"]) == ("my_grids:my/Grid-v0", 96, 8)
    lines = output.splitlines()
    header = next(i for i, line in enumerate(lines) if "L1 empirical" in line)
    assert [line.split()[0] for line in lines[header + 1 : header + 3]] == ["48", "96"]


def test_a_script_run_from_the_root_equals_a_call_in_process(tmp_path, no_pictures):
    process = start(*SHORT, "--out", tmp_path / "run", cwd=SCRIPT.parents[1])
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert main([*SHORT, "--out", str(tmp_path / "twin")]) == 0
    assert_same_run(tmp_path / "run", tmp_path / "twin")


def test_without_out_the_folder_names_environment_agent_approach_and_seed(tmp_path, monkeypatch, no_pictures):
    monkeypatch.chdir(tmp_path)
    assert main([*SHORT, "--seed", "3"]) == 0
    assert (tmp_path / "runs/gfn-Hypergrid-v0/tb-uniform-seed3/summary.json").exists()


def test_files_hold_strict_json(tmp_path, monkeypatch, no_pictures):
    evaluate = Trainer.evaluate

    def with_infinity(self):
        metrics = evaluate(self)
        metrics["kl_exact"] = math.inf
        return metrics

    monkeypatch.setattr(Trainer, "evaluate", with_infinity)
    assert main([*SHORT, "--out", str(tmp_path)]) == 0
    assert metrics_of(tmp_path)[0]["kl_exact"] is None
    assert json.loads((tmp_path / "summary.json").read_text())["kl_exact"] is None


# Stop and go on


@pytest.fixture(scope="module", params=COMBINATIONS)
def whole_run(request, tmp_path_factory):
    """The arguments and the folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    arguments = [*COMBINATIONS[request.param], "--trajectories", "240"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "draw_all", lambda trainer, folder: [])
        assert main([*arguments, "--out", str(folder)]) == 0
    return arguments, folder


@pytest.mark.parametrize("write", [1, 2, 3, 6, 11])
def test_a_run_that_dies_at_any_write_goes_on_bit_identically(whole_run, write, tmp_path, monkeypatch, no_pictures):
    class Killed(BaseException):
        pass

    arguments, whole = whole_run
    replace, writes = os.replace, []

    def dying(source, target):
        writes.append(target)
        if len(writes) == write + 1:
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(Killed):
            main([*arguments, "--out", str(tmp_path)])
    assert main(["--resume", str(tmp_path), "--no-progress"]) == 0
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_checkpoint_of_that_iteration_and_the_table(
    whole_run, number, code, tmp_path, monkeypatch, no_pictures, capsys
):
    arguments, whole = whole_run
    step = Trainer.step

    def signalled(self):
        step(self)
        if self.iteration in (17, 29):
            signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", signalled)
        assert main([*arguments, "--out", str(tmp_path)]) == code
        assert state_of(tmp_path)["iteration"] == 17
        shown = capsys.readouterr()
        assert shown.out.splitlines()[-2].split()[0] == "48"
        assert f"--resume {tmp_path}" in shown.err
        assert not (tmp_path / "summary.json").exists()
        assert main(["--resume", str(tmp_path), "--no-progress"]) == code
        assert state_of(tmp_path)["iteration"] == 29
    assert main(["--resume", str(tmp_path), "--no-progress"]) == 0
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("combination", ["mdqn+tlm", "db+naive", "mdqn+pessimistic"])
def test_a_killed_process_goes_on_bit_identically(combination, tmp_path, no_pictures):
    arguments = [*COMBINATIONS[combination], "--trajectories", "960"]
    assert main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    killed, chance = tmp_path / "killed", random.Random(combination)
    process = start(*arguments, "--out", killed)
    wait_for_evaluation(process, killed, chance.randrange(1, 6))
    time.sleep(chance.random() * 0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    assert len(metrics_of(killed)) < 20
    assert main(["--resume", str(killed), "--no-progress"]) == 0
    assert_same_run(killed, tmp_path / "whole")
    assert set(contents(killed)) == RUN_FILES - set(PICTURES)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_process_that_gets_a_signal_ends_with_its_code(number, code, tmp_path):
    process = start(*MDQN, "--trajectories", 10**6, "--out", tmp_path)
    wait_for_evaluation(process, tmp_path, 2)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "L1 empirical" in output
    assert "Traceback" not in errors
    assert state_of(tmp_path)["iteration"] >= 24
    assert set(contents(tmp_path)) == RUN_FILES - {"summary.json"}


def test_what_a_kill_left_half_written_is_removed(tmp_path, no_pictures):
    assert main([*SHORT, "--out", str(tmp_path)]) == 0
    (tmp_path / ".checkpoint.pt.12345").write_bytes(b"half")
    assert main(["--resume", str(tmp_path), "--no-progress"]) == 0
    assert set(contents(tmp_path)) == RUN_FILES - set(PICTURES)


def test_an_extended_run_equals_a_straight_one(whole_run, tmp_path, no_pictures):
    arguments, whole = whole_run
    shorter = [*arguments[:-1], "144"]
    assert main([*shorter, "--out", str(tmp_path)]) == 0
    assert main(["--resume", str(tmp_path), "--trajectories", "240", "--no-progress"]) == 0
    assert_same_run(tmp_path, whole)
    assert RunFolder(tmp_path, Config).read_config().trajectories == 240


def test_a_run_can_be_extended_to_the_default_number_of_trajectories(tmp_path, monkeypatch, no_pictures):
    assert main([*SHORT, "--out", str(tmp_path)]) == 0
    monkeypatch.setattr(Trainer, "train", lambda self, *_: self.num_iterations == 250_000)
    assert main(["--resume", str(tmp_path), "--trajectories", "1000000"]) == 0


def test_resuming_a_finished_run_changes_nothing(tmp_path, no_pictures):
    assert main([*SHORT, "--out", str(tmp_path)]) == 0
    before = contents(tmp_path)
    assert main(["--resume", str(tmp_path), "--no-progress"]) == 0
    assert_same_run(tmp_path, tmp_path)
    after = contents(tmp_path)
    assert [before[name] for name in ("config.json", "metrics.jsonl")] == [
        after[name] for name in ("config.json", "metrics.jsonl")
    ]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--seed", "7"], "--seed"),
        (["--agent", "db"], "--agent"),
        (["--batch-size", "16"], "--batch-size"),
        (["--optim.lr", "0.5"], "--optim.lr"),
        (["--overwrite"], "--overwrite"),
        (["--out", "elsewhere"], "--out"),
    ],
)
def test_resume_refuses_other_settings(arguments, named, tmp_path, capsys, no_pictures):
    assert main([*SHORT, "--out", str(tmp_path)]) == 0
    before = contents(tmp_path)
    assert f"leave out {named}." in refused(capsys, "--resume", tmp_path, *arguments)
    assert contents(tmp_path) == before


def test_resume_refuses_fewer_trajectories_than_done(tmp_path, capsys, no_pictures):
    assert main([*SHORT, "--out", str(tmp_path)]) == 0
    before = contents(tmp_path)
    assert "--trajectories 48 is less than the 96" in refused(capsys, "--resume", tmp_path, "--trajectories", "48")
    assert contents(tmp_path) == before


def test_resume_refuses_a_folder_without_a_run(tmp_path, capsys):
    assert "holds no run" in refused(capsys, "--resume", tmp_path)
    assert "holds no run" in refused(capsys, "--resume", tmp_path / "absent")
    assert contents(tmp_path) == {}


# Damaged and foreign files


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("it-ran"),))


def flip_a_weight(file):
    data = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
    data[largest.header_offset + 30 + len(largest.filename) + largest.file_size // 2] ^= 1
    file.write_bytes(data)


def rewrite(file, **changes):
    content = torch.load(file, weights_only=True)
    torch.save({**content, **changes}, file)


def other_settings(file, **changes):
    config = json.loads(torch.load(file, weights_only=True)["config"])
    rewrite(file, config=json.dumps(config | changes))


DAMAGES = {
    "empty": lambda file: file.write_bytes(b""),
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-1000]),
    "random": lambda file: file.write_bytes(random.Random(0).randbytes(5000)),
    "flipped bit": flip_a_weight,
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


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run's files."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "draw_all", lambda trainer, folder: [])
        assert main([*SHORT, "--out", str(folder)]) == 0
    return contents(folder)


@pytest.fixture
def copy_of_run(finished, tmp_path, monkeypatch):
    """A folder that holds a finished run, inside the current folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    for name, data in finished.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_or_foreign_checkpoint_is_refused_and_nothing_touched(damage, copy_of_run, capsys):
    damage(copy_of_run / "checkpoint.pt")
    before = contents(copy_of_run)
    message = refused(capsys, "--resume", copy_of_run, "--trajectories", "192")
    assert "checkpoint.pt" in message
    assert "Nothing was changed" in message
    assert "weights_only" not in message  # torch's own text advises to load without protection
    assert contents(copy_of_run) == before
    assert not Path("it-ran").exists()


def test_a_checkpoint_of_other_settings_names_them(copy_of_run, capsys):
    DAMAGES["other seed"](copy_of_run / "checkpoint.pt")
    assert "seed is 5 there, 0 here" in refused(capsys, "--resume", copy_of_run)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"agnet": "tb"}', '{"batch_size": "16"}', '{"optim": 3}', '{"seed": true}', "\x00\udcff"],
)
def test_a_damaged_config_is_refused_and_nothing_touched(text, copy_of_run, capsys):
    (copy_of_run / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    before = contents(copy_of_run)
    assert "config.json is damaged or not of this project" in refused(capsys, "--resume", copy_of_run)
    assert contents(copy_of_run) == before


def test_a_config_of_a_setting_out_of_range_is_refused(copy_of_run, capsys):
    settings = json.loads((copy_of_run / "config.json").read_text())
    (copy_of_run / "config.json").write_text(json.dumps(settings | {"batch_size": 0}))
    assert "batch-size" in refused(capsys, "--resume", copy_of_run)


# The folder


def test_a_folder_that_holds_a_run_is_refused(copy_of_run, capsys):
    before = contents(copy_of_run)
    message = refused(capsys, *SHORT, "--out", copy_of_run)
    assert "--resume" in message
    assert "--overwrite" in message
    assert contents(copy_of_run) == before


def test_overwrite_replaces_the_run_and_keeps_other_files(copy_of_run, no_pictures):
    unrelated = {"notes.txt": b"mine", "photo.png": b"mine too", "deeper/config.json": b"{}", ".hidden": b""}
    (copy_of_run / "deeper").mkdir()
    for name, data in unrelated.items():
        (copy_of_run / name).write_bytes(data)
    for name in ("trajectories.png", "events.out.tfevents.1"):
        (copy_of_run / name).write_bytes(b"of the old run")
    assert main([*SHORT, "--seed", "1", "--out", str(copy_of_run), "--overwrite"]) == 0
    after = contents(copy_of_run)
    assert set(after) == (RUN_FILES - set(PICTURES)) | set(unrelated)
    assert after.items() >= unrelated.items()
    assert json.loads(after["config.json"])["seed"] == 1


@pytest.mark.parametrize("wrong", [["--env-kwargs", '{"side": 1}'], ["--optim.lr", "-1"], ["--tensorboard"]])
def test_overwrite_with_a_mistake_leaves_the_old_run(wrong, copy_of_run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    before = contents(copy_of_run)
    refused(capsys, *SHORT, *wrong, "--out", copy_of_run, "--overwrite")
    assert contents(copy_of_run) == before


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert main([*SHORT, "--out", str(out)]) == 1
        assert f"cannot make the folder {out}" in capsys.readouterr().err
    assert contents(tmp_path) == {"file": b"mine"}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_last_checkpoint_and_no_litter(call, tmp_path, monkeypatch, capsys, no_pictures):
    working, calls = getattr(os, call), []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) > 3:  # config, checkpoint and metrics went well
            raise OSError(28, "No space left on device")
        return working(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        assert main([*SHORT, "--out", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert f"cannot write {tmp_path / 'checkpoint.pt'}: No space left on device" in message
    assert f"--resume {tmp_path}" in message
    assert set(contents(tmp_path)) == {"config.json", "checkpoint.pt", "metrics.jsonl"}
    assert state_of(tmp_path)["iteration"] == 12
    assert main(["--resume", str(tmp_path), "--no-progress"]) == 0


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path, monkeypatch, capsys):
    path_open = Path.open

    def read_only(self, mode="r", *arguments, **kwargs):
        if "w" in mode:
            raise PermissionError(13, "Permission denied", str(self))
        return path_open(self, mode, *arguments, **kwargs)

    monkeypatch.setattr(Path, "open", read_only)
    assert main([*SHORT, "--out", str(tmp_path / "run")]) == 1
    assert f"cannot write {tmp_path / 'run' / 'config.json'}: Permission denied" in capsys.readouterr().err
    assert contents(tmp_path) == {}


# Wrong input


@pytest.mark.parametrize(
    ("flag", "value", "first"),
    [
        ("--agent", "mdqm", "mdqn"),
        ("--agent", "sub-tb", "subtb"),
        ("--backward", "pesimistic", "pessimistic"),
        ("--env", "gfn/Hypergird-v0", "gfn/Hypergrid-v0"),
        ("--device", "gpu", "cpu"),
    ],
)
def test_an_unknown_name_lists_the_known_ones_closest_first(flag, value, first, tmp_path, capsys):
    message = refused(capsys, flag, value, "--out", tmp_path / "run")
    assert f"Unknown {'environment id' if flag == '--env' else flag[2:]}" in message
    assert f"{value!r}. Known, closest first: {first}," in message
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ('{"side": 1}', "side must be an integer of at least 2, got 1"),
        ('{"side": 4.5}', "side must be an integer of at least 2, got 4.5"),
        ('{"side": [4]}', "side must be an integer of at least 2, got [4]"),
        ('{"dim": 0}', "dim must be an integer of at least 1, got 0"),
        ('{"dim": null}', "dim must be an integer of at least 1, got None"),
        ('{"R0": -1}', "R0 must be a finite number > 0, got -1"),
        ('{"R0": 0}', "R0 must be a finite number > 0, got 0"),
        ('{"R0": NaN}', "R0 must be a finite number > 0, got nan"),
        ('{"R1": Infinity}', "R1 must be a finite number >= 0, got inf"),
        ('{"R2": "2"}', "R2 must be a finite number >= 0, got '2'"),
        ('{"reward": "hrad"}', "Unknown reward 'hrad'. Known, closest first: hard,"),
        ('{"reward": ["hard"]}', "Unknown reward ['hard']"),
        ('{"sied": 5}', "Unknown keyword argument of Hypergrid 'sied'. Known, closest first: side,"),
        ('{"id": 5}', "Unknown keyword argument of Hypergrid 'id'"),
        ('{"dag": 5}', "Unknown keyword argument of Hypergrid 'dag'"),
        ('{"device": "cpu"}', "use --device"),
        ('{"side": 4', "--env-kwargs is not JSON"),
        ("[1, 2]", "--env-kwargs must be a JSON object"),
        ("side=4", "--env-kwargs is not JSON"),
        ("", "--env-kwargs is not JSON"),
    ],
)
def test_wrong_keyword_arguments_name_the_argument_and_the_value(kwargs, named, tmp_path, capsys):
    assert named in refused(capsys, "--env-kwargs", kwargs, "--out", tmp_path / "run")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--batch-size", "0"),
        ("--batch-size", "-4"),
        ("--trajectories", "0"),
        ("--seed", "-1"),
        ("--threads", "0"),
        ("--eval-every", "0"),
        ("--eval.window", "0"),
        ("--eval.max-exact-edges", "-1"),
        ("--epsilon", "2"),
        ("--epsilon", "nan"),
        ("--epsilon-end", "-0.1"),
        ("--learning-starts", "-1"),
        ("--optim.lr", "nan"),
        ("--optim.lr", "inf"),
        ("--optim.lr", "-1"),
        ("--pb.lr", "nan"),
        ("--pb.target-rate", "1.5"),
        ("--dqn.alpha", "1"),
        ("--dqn.replay-capacity", "0"),
        ("--dqn.priority-alpha", "nan"),
        ("--net.width", "0"),
        ("--net.layers", "0"),
    ],
)
def test_a_number_out_of_range_names_flag_and_value(flag, value, tmp_path, capsys):
    needs = ["--epsilon-trajectories", "9"] if flag == "--epsilon-end" else []
    message = refused(capsys, *BASE, *needs, flag, value, "--out", tmp_path / "run")
    assert f"{flag} must lie in" in message
    assert f"got {float(value)}" in message or f"got {value}" in message
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    "arguments",
    [["--batch-size", "ten"], ["--trajectories", "1e6"], ["--batch-size"], ["--agent"], ["--no-such-flag"], ["stray"]],
)
def test_a_command_that_cannot_be_read_says_what_is_wrong(arguments, tmp_path, capsys):
    assert arguments[-1].lstrip("-") in refused(capsys, *BASE, "--out", tmp_path / "run", *arguments)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--agent", "db", "--dqn.alpha", "0.3"],
        ["--agent", "softdqn", "--dqn.alpha", "0.3"],
        ["--agent", "db", "--subtb-lambda", "0.5"],
        ["--agent", "mdqn", "--optim.log-z-lr", "0.5"],
        ["--backward", "naive", "--pb.lr", "0.5"],
        ["--backward", "tlm", "--pb.past-batches", "5"],
    ],
)
def test_a_setting_that_nothing_reads_is_refused(arguments, tmp_path, capsys):
    message = refused(capsys, *BASE, *arguments, "--out", tmp_path / "run")
    assert f"{arguments[-2]} {arguments[-1]} has no effect with --agent" in message
    assert contents(tmp_path) == {}


def test_cuda_is_refused_where_there_is_none(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--device cuda: torch finds no CUDA device" in refused(capsys, "--device", "cuda", "--out", tmp_path / "run")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("package", ["tensorboard", "wandb"])
def test_a_logger_whose_package_is_missing_says_how_to_install_it(package, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    assert f"pip install {package}" in refused(capsys, *SHORT, f"--{package}", "--out", tmp_path / "run")
    assert contents(tmp_path) == {}


# A user's own environment


def test_a_module_is_imported_for_its_environment(my_grids, tmp_path, no_pictures):
    assert main(["--env", my_grids, *SHORT[2:], "--out", str(tmp_path / "run")]) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["env"] == my_grids
    assert main(["--resume", str(tmp_path / "run"), "--no-progress"]) == 0
    assert isinstance(gfn_envs.make(my_grids), gfn_envs.Hypergrid)
    assert gymnasium.make(my_grids).observation_space.shape == (3,)


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ("no_such_module:my/Grid-v0", "cannot import 'no_such_module'"),
        ("my_grids:my/Gird-v0", "Unknown environment id 'my/Gird-v0'. Known, closest first: my/Grid-v0"),
        (":my/Grid-v0", "'' is not the name of a module"),
        (".my_grids:my/Grid-v0", "'.my_grids' is not the name of a module"),
        ("a b:my/Grid-v0", "'a b' is not the name of a module"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named(env, named, my_grids, tmp_path, capsys):
    assert named in refused(capsys, "--env", env, "--out", tmp_path / "run")
    with pytest.raises(ValueError, match=re.escape(named)):
        gfn_envs.make(env)
    assert not (tmp_path / "run").exists()


def test_presets_hold_for_an_id_with_its_module(monkeypatch):
    monkeypatch.setitem(sys.modules["agents.config"].ENV_PRESETS, "gfn/Hypergrid-v0", {"all": {"net.width": 17}})
    assert preset("gfn_envs:gfn/Hypergrid-v0", "tb").net.width == 17
    assert preset("gfn/HypergridHard-v0", "tb").net.width == 256


@pytest.mark.parametrize(
    ("value", "named"),
    [("NaN", "log_reward is nan"), ("-Infinity", "the reward is 0"), ("3e38", "the loss is no longer finite")],
)
def test_a_reward_or_loss_that_fails_later_leaves_the_last_checkpoint(
    value, named, my_grids, tmp_path, capsys, no_pictures
):
    kwargs = f'{{"after": 17, "value": {value}}}'
    settings = [*SHORT[2:], "--eval.max-exact-edges", "0", "--env-kwargs", kwargs]
    assert main(["--env", my_grids, *settings, "--out", str(tmp_path / "run")]) == 1
    message = capsys.readouterr().err
    assert named in message
    assert "Traceback" not in message
    state = state_of(tmp_path / "run")
    assert state["iteration"] == 12
    assert all(weights.isfinite().all() for weights in state["network"].values())
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_signal_does_not_save_a_loss_that_is_not_finite(tmp_path, monkeypatch, no_pictures):
    step = Trainer.step

    def poisoned(self):
        step(self)
        if self.iteration == 17:
            self._loss_sums[0] = math.nan
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "step", poisoned)
    assert main([*SHORT, "--out", str(tmp_path)]) == 1
    assert state_of(tmp_path)["iteration"] == 12


def test_a_bad_reward_that_enumeration_finds_is_wrong_input(my_grids, tmp_path, capsys):
    settings = ["--env", my_grids, "--env-kwargs", '{"after": 0}', "--out", tmp_path / "run"]
    assert "log_reward is nan (NaN) at state" in refused(capsys, *settings)
    assert not (tmp_path / "run").exists()


# Every flag


def test_help_explains_every_flag(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    flags = [name.replace("_", "-") for name in flatten(Config())]
    flags += [f.name for f in dataclasses.fields(Options) if f.name not in ("config", "progress")] + ["no-progress"]
    plain = re.sub(r"[│╭╮╰╯─ ]+", " ", shown)
    for flag in flags:
        # The flag, its negation if it is a switch, its metavariable, and at least a few words.
        assert re.search(rf"\s--{re.escape(flag)}(, --\S+)?( [A-Z]+)?\s+[A-Z0-9k].{{8,}}", plain), flag
    for word in (*build.AGENTS, *build.BACKWARD, *gfn_envs.registered(), "--resume runs/small", "my_module:my/Env-v0"):
        assert word in shown


def test_help_comes_also_with_a_mistake_before_it(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--agent", "nonsense", "--help"])
    assert stop.value.code == 0
    assert "--agent STR" in capsys.readouterr().out


MDQN_DEFAULT, TB = [], ["--agent", "tb"]
BITS = ["--env", "gfn/BitSequence-v0", "--env-kwargs", '{"n": 8, "k": 2, "modes": 3}']
EFFECTS = {
    "agent": (MDQN_DEFAULT, "softdqn"),
    "backward": (MDQN_DEFAULT, "uniform"),
    "env": (MDQN_DEFAULT, "gfn/HypergridHard-v0"),
    "env_kwargs": (MDQN_DEFAULT, '{"dim": 2, "side": 5}'),
    "trajectories": (MDQN_DEFAULT, "40"),
    "batch_size": (MDQN_DEFAULT, "5"),
    "seed": (MDQN_DEFAULT, "1"),
    "eval_every": (MDQN_DEFAULT, "3"),
    "eval.window": (MDQN_DEFAULT, "10"),
    "eval.max_exact_edges": (MDQN_DEFAULT, "0"),
    "epsilon": (MDQN_DEFAULT, "0.9"),
    "epsilon_end": (["--epsilon", "0.9", "--epsilon-trajectories", "16"], "0.5"),
    "epsilon_trajectories": (["--epsilon", "0.9"], "8"),
    "learning_starts": (MDQN_DEFAULT, "4"),
    "subtb_lambda": (["--agent", "subtb"], "0.3"),
    "optim.lr": (MDQN_DEFAULT, "0.1"),
    "optim.log_z_lr": (TB, "0.5"),
    "optim.weight_decay": (MDQN_DEFAULT, "0.5"),
    "optim.lr_decay": (MDQN_DEFAULT, "0.5"),
    "optim.max_grad_norm": (MDQN_DEFAULT, "1e-8"),
    "penalty": (TB, "huber"),
    "pb.lr": (MDQN_DEFAULT, "0.1"),
    "pb.lr_decay": (MDQN_DEFAULT, "0.5"),
    "pb.target_rate": (MDQN_DEFAULT, "1"),
    "pb.zero_init": (MDQN_DEFAULT, None),
    "pb.weight_decay": (MDQN_DEFAULT, "0.5"),
    "pb.max_grad_norm": (MDQN_DEFAULT, "1e-8"),
    "pb.past_batches": (["--backward", "pessimistic"], "2"),
    "pb.exact_maxent": (["--backward", "maxent"], None),
    "dqn.alpha": (MDQN_DEFAULT, "0.5"),
    "dqn.l0": (MDQN_DEFAULT, "-0.1"),
    "dqn.on_policy": (MDQN_DEFAULT, True),
    "dqn.replay_capacity": (MDQN_DEFAULT, "30"),
    "dqn.replay_batch": (MDQN_DEFAULT, "9"),
    "dqn.priority_alpha": (MDQN_DEFAULT, "0"),
    "dqn.priority_beta": (MDQN_DEFAULT, "0.7"),
    "dqn.target_rate": (MDQN_DEFAULT, "1"),
    "dqn.target_every": (MDQN_DEFAULT, "3"),
    "dqn.leaf_weight": (MDQN_DEFAULT, "9"),
    "dqn.dueling": (MDQN_DEFAULT, True),
    "net.width": (MDQN_DEFAULT, "9"),
    "net.layers": (MDQN_DEFAULT, "1"),
    "net.shared_torso": (MDQN_DEFAULT, None),
    "net.attention_heads": (BITS, "2"),
    "network": (BITS, "mlp"),
    "eval.elbo_samples": (MDQN_DEFAULT, "7"),
    "eval.test_every": (BITS, "0"),
    "eval.test_objects": (BITS, "9"),
    "eval.test_rollouts": (BITS, "3"),
}
"""Setting -> the arguments that it needs, and a value: None for its --no-flag, True for a flag without value."""


def outcome(folder, *arguments):
    """Metrics and weights that a short run ends with."""
    short = ["--env-kwargs", '{"dim": 2, "side": 4}', "--batch-size", "4", "--trajectories", "48", "--net.width", "8"]
    starts = [] if "tb" in arguments or "subtb" in arguments else ["--learning-starts", "2"]
    assert main([*short, *starts, *arguments, "--no-progress", "--overwrite", "--out", str(folder)]) == 0
    return untimed(metrics_of(folder)), {name: value.tolist() for name, value in state_of(folder)["network"].items()}


@pytest.mark.parametrize("name", sorted(set(flatten(Config())) - {"device", "threads", "preset", "eval.samples"}))
def test_every_setting_has_an_effect(name, tmp_path, no_pictures):
    needs, value = EFFECTS[name]
    flag = name.replace("_", "-")
    if value is None:
        *section, leaf = flag.split(".")
        given = ["--" + ".".join([*section, "no-" + leaf])]
    else:
        given = ["--" + flag] if value is True else ["--" + flag, value]
    assert outcome(tmp_path, *needs, *given) != outcome(tmp_path, *needs)


def test_a_preset_gives_defaults_that_flags_replace():
    given = ["--env", "gfn/QM9-v0", "--preset", "paper"]
    plain, paper, own = (parse(args).config for args in (given[:2], given, [*given, "--net.layers", "5"]))
    assert (plain.net.layers, plain.net.width) == (3, 64)
    assert (paper.net.layers, paper.net.width, own.net.layers, own.net.width) == (8, 128, 5, 128)
    assert parse(["--preset", "paper"]).config.differences(parse([]).config) == {"preset": ("paper", "default")}
    with pytest.raises(ValueError, match=r"Unknown preset 'papers'\. Known, closest first: paper, default"):
        parse(["--preset", "papers"])


def test_threads_are_set(tmp_path, no_pictures):
    threads = torch.get_num_threads()
    try:
        assert main([*SHORT, "--threads", "2", "--out", str(tmp_path)]) == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_the_device_is_the_one_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [build.resolve_device(parse(["--device", name]).config.device).type for name in ("cpu", "cuda", "auto")] == [
        "cpu", "cuda", "cuda",
    ]  # fmt: skip


def test_tensorboard_gets_every_evaluation_once_also_after_a_resume(tmp_path, no_pictures):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main([*SHORT, "--tensorboard", "--out", str(tmp_path)]) == 0
    assert main(["--resume", str(tmp_path), "--trajectories", "144", "--tensorboard", "--no-progress"]) == 0
    events = EventAccumulator(str(tmp_path)).Reload()
    rows = metrics_of(tmp_path)
    assert [event.step for event in events.Scalars("l1_exact")] == [48, 96, 144]
    assert [event.value for event in events.Scalars("l1_exact")] == pytest.approx([row["l1_exact"] for row in rows])


def test_wandb_gets_settings_and_every_evaluation(tmp_path, monkeypatch, no_pictures):
    import importlib.machinery
    import types

    calls = []
    fake = types.ModuleType("wandb")
    fake.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    run = types.SimpleNamespace(log=lambda metrics, step: calls.append(step), finish=lambda: calls.append("finished"))
    fake.init = lambda project, dir, config: calls.append((project, config["seed"])) or run
    monkeypatch.setitem(sys.modules, "wandb", fake)
    assert main([*SHORT, "--wandb", "--out", str(tmp_path)]) == 0
    assert calls == [("gfn-envs", 0), 48, 96, "finished"]


def test_a_progress_bar_is_shown_unless_refused(tmp_path, capsys, no_pictures):
    assert main([*SHORT, "--out", str(tmp_path)]) == 0
    assert "traj" not in capsys.readouterr().err
    assert (
        main([*[argument for argument in SHORT if argument != "--no-progress"], "--out", str(tmp_path), "--overwrite"])
        == 0
    )
    assert "traj" in capsys.readouterr().err
