"""The README's code runs as it stands, and its commands are ones the command line accepts."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from agents.runs.train import parse

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [
    line
    for block in re.findall(r"^```bash\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


@pytest.mark.parametrize("code", PYTHON, ids=lambda code: code.strip().splitlines()[0])
def test_python_blocks_run(code, tmp_path):
    script = tmp_path / "block.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("python agents/run.py")])
def test_training_commands_are_understood(line):
    words = shlex.split(line, comments=True)[2:]
    if "--resume" not in words:  # the run to go on with is one that an earlier line makes
        options = parse(words)
        assert f"--agent {options.config.agent}" in line


def test_commands_of_the_makefile_exist():
    targets = re.findall(r"^([a-z][a-z-]*):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    named = re.findall(r"`?make ([a-z-]+)", README)
    assert named
    assert set(named) <= set(targets)


def test_every_registered_environment_is_listed():
    import gfn_envs

    assert [name for name in gfn_envs.registered() if name.startswith("gfn/") and f"`{name}`" not in README] == []
