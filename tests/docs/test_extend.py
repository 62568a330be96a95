"""docs/extend.md works as it stands: its files lie outside the repository, and its commands run on them."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import tyro
from pages import ROOT, blocks, commands, text

from agents.runs import sample, sweep, train

PAGE = text(ROOT / "docs" / "extend.md")
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")[1:]}
FILES = dict(re.match(r"# (\w+\.py)\n(.*)", code, re.DOTALL).groups() for code in blocks(PAGE, "python"))


def _script(words: list[str]) -> int:
    runpy.run_path(words[0], run_name="__main__")
    return 0


def _planned(words: list[str]) -> int:
    # test_outsider.py runs a sweep.
    return 0 if sweep.plan(tyro.cli(sweep.Options, args=words)) else 1


MAINS: dict[str, Callable[[list[str]], int]] = {
    "agents/run.py": train.main,
    "agents/sample.py": sample.main,
    "agents/sweep.py": _planned,
    "agents/compare.py": lambda words: 0,
}


def _run(line: str, trajectories: int) -> int:
    """Run a command of the page in this process, for fewer trajectories; return its exit code."""
    python, script, *words = shlex.split(line)
    assert python == "python"
    if script not in MAINS:
        return _script([script])
    if script == "agents/run.py" and "--resume" in words:
        words += ["--no-progress", "--trajectories", str(trajectories)]
    elif script == "agents/run.py":
        words += ["--no-progress", "--trajectories", str(trajectories), "--eval.samples", "8"]
    return MAINS[script](words)


@pytest.fixture
def files(outside: Path) -> Path:
    """Write the page's files into the current folder."""
    for name, code in FILES.items():
        (outside / name).write_text(code, encoding="utf-8")
    return outside


@pytest.mark.filterwarnings("ignore:.*Overriding environment:UserWarning")  # my_bits.py runs, and is imported then
@pytest.mark.parametrize("title", [title for title, part in SECTIONS.items() if commands(part)])
def test_the_commands_of_a_section_run(title: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if "QM9" in SECTIONS[title]:
        pytest.importorskip("rdkit")
    for place, line in enumerate(commands(SECTIONS[title])):
        if line.endswith("--help"):
            with pytest.raises(SystemExit) as stopped:
                _run(line, 0)
            assert stopped.value.code == 0
            assert "--agent.log-z-rate" in capsys.readouterr().out
        else:
            assert _run(line, 320 + 16 * place) == 0, capsys.readouterr().err
    for metrics in files.rglob("metrics.jsonl"):
        assert json.loads(metrics.read_text().splitlines()[-1])["loss"] >= 0


def test_every_file_is_used() -> None:
    assert {name for name in FILES if name.removesuffix(".py") not in " ".join(commands(PAGE))} == set()


def test_an_objective_of_ones_own_appears_with_its_figures(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = '--env-kwargs \'{"dim": 2, "side": 4}\''
    line = f"python agents/run.py --agent my_objective:vargrad --backward my_backward:smoothed {grid} --out run"
    assert _run(f"{line} --metrics my_metric:target_seen", 64) == 0
    figures = json.loads((files / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"log_z_spread", "backward_loss", "target_seen"} <= set(figures)
    table = capsys.readouterr().out
    assert "log z spread" in table
    assert "target seen" in table


def test_the_objective_learns(files: Path) -> None:
    import agents

    run = agents.train(
        agent="my_objective:vargrad",
        backward="my_backward:smoothed",
        network="my_network:sum",
        env_kwargs={"dim": 2, "side": 4},
        trajectories=4000,
        settings={"agent.lr": 3e-3, "network.width": 64},
        progress=False,
    )
    assert run.metrics["total_variation_exact"] < 0.1  # a policy that has not learned has 0.6
    assert abs(run.metrics["log_z_error"]) < 0.1


def test_the_backward_policy_sums_to_one(files: Path) -> None:
    import torch

    import agents

    run = agents.train(
        agent="db",
        backward="my_backward:smoothed",
        env_kwargs={"dim": 2, "side": 4},
        trajectories=320,
        progress=False,
    )
    dag, agent = run.trainer.dag, run.trainer.agent
    states = run.policy.trajectories_to(run.policy.sample(16).states).rows.states
    mask = dag.backward_action_mask(states)
    states, mask = states[mask.any(1)], mask[mask.any(1)]
    each = [agent.log_pb(states, torch.full((len(states),), b)) for b in range(dag.num_backward_actions)]
    total = torch.where(mask, torch.stack(each, 1).exp(), 0.0).sum(1)
    torch.testing.assert_close(total, torch.ones(len(states)))
    from_logits = agent.backward_policy()(states).masked_fill(~mask, -torch.inf).log_softmax(1)
    torch.testing.assert_close(from_logits[mask], torch.stack(each, 1)[mask])
