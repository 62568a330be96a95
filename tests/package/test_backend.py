"""What the build backend renames, and what it leaves alone."""

from __future__ import annotations

import importlib.util
import tomllib

import pytest
from pages import ROOT, text

_spec = importlib.util.spec_from_file_location("backend", ROOT / "build_backend" / "backend.py")
assert _spec
assert _spec.loader
backend = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(backend)


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("from agents import registry", "from gfn_agents import registry"),
        ("    from agents.runs import command", "    from gfn_agents.runs import command"),
        ("import agents\nagents.train()", "import gfn_agents\ngfn_agents.train()"),
        (
            'register_agent("tb", "agents.objectives.balance:TB")',
            'register_agent("tb", "gfn_agents.objectives.balance:TB")',
        ),
        ('Registry("agent", "agents:AgentSettings")', 'Registry("agent", "gfn_agents:AgentSettings")'),
        ("from baselines.build import build", "from gfn_baselines.build import build"),
        ("python -m agents.runs.bench", "python -m gfn_agents.runs.bench"),
        ("python -m baselines", "python -m gfn_baselines"),
        ("python agents/run.py --agent tb", "gfn-train --agent tb"),
        ("a run of baselines/run.py", "a run of gfn-baseline"),
    ],
)
def test_what_names_a_package_or_a_command_is_renamed(here: str, there: str) -> None:
    assert backend.renamed(here) == there
    assert backend.renamed(there) == there


@pytest.mark.parametrize(
    "code",
    [
        "import gfn_envs",
        "it compares agents. Then it ends",
        "self.agents.sort()",
        'FORMAT = "gfn-agents-policy"',
        'names = {"agents": 1}',
        "pip install 'gfn-envs[baselines]'",
        'baselines = ["stable-baselines3>=2.6"]',
        "import stable_baselines3",
    ],
)
def test_other_words_stay(code: str) -> None:
    assert backend.renamed(code) == code


def test_every_script_is_a_command() -> None:
    scripts = {
        path.relative_to(ROOT).as_posix()
        for package in backend.NAMES
        for path in (ROOT / package).glob("*.py")
        if "from agents.runs.script import run" in text(path)
    }
    assert set(backend.COMMANDS) == scripts
    declared = tomllib.loads(text(ROOT / "pyproject.toml"))["project"]["scripts"]
    assert declared == {
        command: f"{script.removesuffix('.py').replace('/', '.')}:main" for script, command in backend.COMMANDS.items()
    }
