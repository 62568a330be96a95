"""The whole claim at once: choices of a stranger's own train, survive a kill, are swept, compared and sampled from.

The stranger's module holds what docs/extend.md shows, under names that no file of the repository knows.
"""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT, blocks, text

import agents
from agents.runs import compare, evaluate, sample, sweep, train

FILES = dict(
    re.match(r"# (\w+)\.py\n(.*)", code, re.DOTALL).groups() for code in blocks(text(ROOT / "docs/extend.md"), "python")
)
NAMES = {
    '"vargrad"': '"quokka_variance"',
    '"smoothed"': '"quokka_smooth"',
    '"sum"': '"quokka_sum"',
    '"quick"': '"quokka_quick"',
    '"target_seen"': '"quokka_seen"',
    '"target seen"': '"quokka heading"',
}
MODULE = "\n\n".join(
    FILES[name] for name in ("my_objective", "my_backward", "my_network", "my_preset", "my_metric")
)  # fmt: skip
CHOICES = {
    "agent": "quokka:quokka_variance",
    "backward": "quokka:quokka_smooth",
    "network": "quokka:quokka_sum",
    "preset": "quokka:quokka_quick",
}
METRIC = "quokka:quokka_seen"
ENV_KWARGS = {"dim": 2, "side": 8}
TRAJECTORIES, EVAL_EVERY = 4800, 30
CLOCK = ("seconds", "iterations_per_second")


@pytest.fixture
def stranger(outside: Path) -> Path:
    """Write the stranger's module into the current folder."""
    module = MODULE
    for name, other in NAMES.items():
        assert name in module
        module = module.replace(name, other)
    (outside / "quokka.py").write_text(module, encoding="utf-8")
    return outside


def _history(folder: Path) -> list[dict[str, Any]]:
    file = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in rows]


def _killed_run(folder: Path) -> None:
    """Train in another process, and kill it without warning after its second evaluation."""
    flags = [word for name, value in CHOICES.items() for word in (f"--{name}", value)]
    flags += ["--env-kwargs", json.dumps(ENV_KWARGS), "--metrics", METRIC, "--agent.log-z-rate", "0.1"]
    flags += ["--trajectories", str(TRAJECTORIES), "--eval-every", str(EVAL_EVERY), "--out", str(folder)]
    command = [sys.executable, str(ROOT / "agents" / "run.py"), *flags, "--no-progress"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        deadline = time.monotonic() + 120
        while len(_history(folder)) < 2 and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
        output, _ = run.communicate()
    assert run.returncode == -signal.SIGKILL, output


def test_choices_of_a_strangers_own_do_all_that_those_of_the_project_do(
    stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stranger / "run"
    _killed_run(run)
    before = len(_history(run))
    assert 2 <= before < TRAJECTORIES // 16 // EVAL_EVERY

    # Resumed, it has the figures of a run that was left alone, to the bit.
    assert train.main(["--resume", str(run), "--no-progress"]) == 0
    alone = agents.train(
        **CHOICES,
        env_kwargs=ENV_KWARGS,
        trajectories=TRAJECTORIES,
        settings={"eval_every": EVAL_EVERY, "agent.log_z_rate": 0.1, "metrics": (METRIC,)},
        progress=False,
    )
    expected = [{name: value for name, value in row.items() if name not in CLOCK} for row in alone.history]
    assert _history(run) == expected
    assert expected[-1]["total_variation_exact"] < 0.2  # a policy that has not learned has 0.8
    assert {"log_z_spread", "quokka_seen", "backward_loss"} <= set(expected[-1])
    assert {"log z spread", "quokka heading"} <= set(re.split(r"\s{2,}", capsys.readouterr().out))

    # Its policy can be used without the run.
    assert sample.main([str(run), "--num", "5", "--rollouts", "2", "--out", "samples.csv", "--no-progress"]) == 0
    assert len(list(csv.DictReader((stranger / "samples.csv").open()))) == 5
    assert evaluate.main([str(run / "policy.safetensors"), "--eval.samples", "32"]) == 0
    assert "quokka_seen" in capsys.readouterr().out

    # A sweep and a comparison take it beside the project's own.
    method = "+".join(CHOICES[kind] for kind in ("agent", "backward", "network"))
    words = ["--methods", method, "--preset", CHOICES["preset"], "--metrics", METRIC, "--seeds", "0", "1"]
    words += ["--env-kwargs", json.dumps(ENV_KWARGS), "--trajectories", "320", "--evaluations", "2"]
    assert sweep.main([*words, "--out", "sweep", "--no-progress"]) == 0, [
        log.read_text() for log in (stranger / "sweep").rglob("*.log")
    ]
    settings = [json.loads(file.read_text()) for file in sorted((stranger / "sweep").rglob("config.json"))]
    assert [each["seed"] for each in settings] == [0, 1]
    assert all(each[kind] == name for each in settings for kind, name in CHOICES.items())
    assert {each["agent.lr"] for each in settings} == {3e-3}  # the preset's
    assert compare.main(["sweep", "run", "--out", "report"]) == 0
    report = (stranger / "report" / "report.md").read_text()
    assert "quokka_variance + quokka_smooth" in report
    assert "quokka heading" in report


def test_no_file_of_the_repository_knows_their_names() -> None:
    folders = ("gfn_envs", "agents", "baselines", "docs", "tests")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md")]
    files += [path for path in ROOT.iterdir() if path.suffix in (".md", ".toml")]
    assert len(files) > 100
    assert {path for path in files if "quokka" in text(path)} == {Path(__file__)}
