"""What the README and the pages in docs/ show is right: code runs, commands are understood, links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tyro
from pages import PAGES, ROOT, blocks, commands, text

import gfn_envs
from agents.config import CHOICES
from agents.evaluation.settings import EvaluationSettings
from agents.pretrained import make
from agents.registry import SAMPLERS
from agents.runs import bench, compare, evaluate, results, sample, sweep, train, tune
from agents.settings import field_types
from gfn_envs.envs.qm9 import judge
from gfn_envs.envs.qm9.make import alternatives, train_gap

README = text(ROOT / "README.md")
EXTEND = ROOT / "docs" / "extend.md"
"""Its blocks are files that belong together: test_extend.py runs them."""
PYTHON = [code for page in PAGES if page != EXTEND for code in blocks(text(page), "python")]
COMMANDS = list(dict.fromkeys(line for page in PAGES if page != EXTEND for line in commands(text(page))))


def _baseline(words: list[str]) -> object:
    from baselines.train import parse

    return parse(words)


def _sweep(words: list[str]) -> object:
    if words[0].endswith(".toml"):  # a file of the reader's; test_suites.py reads such files
        return tyro.cli(sweep.Options, args=words)
    return sweep.plan(tyro.cli(sweep.Options, args=words))


PARSERS: dict[str, Callable[[list[str]], object]] = {
    "python agents/run.py": train.parse,
    "torchrun --nproc-per-node 2 agents/run.py": train.parse,
    "python agents/sample.py": lambda words: tyro.cli(sample.Options, args=words),
    "python agents/evaluate.py": lambda words: tyro.cli(evaluate.Options, args=words),
    "python agents/sweep.py": _sweep,
    "python agents/compare.py": lambda words: tyro.cli(compare.Options, args=words),
    "python agents/results.py": lambda words: tyro.cli(results.Options, args=words),
    "python agents/tune.py": lambda words: tyro.cli(tune.Options, args=words),
    "python baselines/run.py": _baseline,
    "python -m agents.pretrained.make": make.parse,
    "python -m agents.runs.bench": lambda words: tyro.cli(bench.Options, args=words),
    "python -m gfn_envs.envs.qm9.judge": lambda words: tyro.cli(judge.Options, args=words),
    "python -m gfn_envs.envs.qm9.make.alternatives": lambda words: tyro.cli(alternatives.Settings, args=words),
    "python -m gfn_envs.envs.qm9.make.train_gap": lambda words: tyro.cli(train_gap.Settings, args=words),
}
"""What understands a command's words, by the beginning of its line."""


@pytest.mark.parametrize("code", PYTHON, ids=lambda code: code.strip().splitlines()[0])
def test_python_blocks_run(code: str, tmp_path: Path) -> None:
    if "sb3_contrib" in code:
        pytest.importorskip("sb3_contrib")
    if "molecules" in code.lower():
        pytest.importorskip("rdkit")
    script = tmp_path / "block.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_understood(line: str) -> None:
    begins = [begin for begin in PARSERS if line.startswith(begin + " ")]
    if line.startswith(("make ", ". .venv/bin/activate")):
        return  # of make see below
    assert begins, f"no parser for {line!r}"
    words = shlex.split(line.removeprefix(begins[0]), comments=True)
    if "--resume" in words:  # the run to go on with is one that an earlier line makes
        return
    # A and B stand for the agent and the backward policy of a table's row.
    assert PARSERS[begins[0]]([{"A": "mdqn", "B": "tlm"}.get(word, word) for word in words]) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_makefile_exist(page: Path) -> None:
    targets = re.findall(r"^([a-z][a-z-]*):.*##", text(ROOT / "Makefile"), flags=re.MULTILINE)
    named = re.findall(r"(?:^|`)make ([a-z-]+)", text(page), flags=re.MULTILINE)
    assert set(named) <= set(targets)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text(page))]
    local = [link for link in links if link and not link.startswith("https://")]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_flags_of_choices_exist() -> None:
    named = {flag for page in PAGES if page != EXTEND for flag in re.findall(r"--(\w+\.[\w-]+)", text(page))}
    groups = {
        kind: {field for name in choices.names() for field in field_types(choices.find(name))}
        for kind, choices in CHOICES.items()
    }
    groups["sampler"] |= set(field_types(SAMPLERS.find("+".join(SAMPLERS.names()))))
    groups["eval"] = set(field_types(EvaluationSettings))
    parts = {flag: flag.replace("-", "_").split(".") for flag in named}
    assert named
    assert {flag for flag, (group, field) in parts.items() if field not in groups.get(group, set())} == set()


def test_every_registered_environment_is_listed() -> None:
    assert [name for name in gfn_envs.registered() if name.startswith("gfn/") and f"`{name}`" not in README] == []


def test_the_readme_is_read_in_one_sitting() -> None:
    assert len(README.splitlines()) <= 200


def test_the_learning_table_is_the_same_on_both_pages() -> None:
    tables = [re.search(r"<!-- learning table.*?-->(.*?)<!-- end", text(page), re.DOTALL) for page in PAGES]
    found = [table[1].strip() for table in tables if table]
    assert len(found) == 2
    assert found[0] == found[1]
