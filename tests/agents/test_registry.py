"""Choices are found by name, a module's are imported when first named, and mistakes say what there is."""

import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from own_modules import own_modules

import agents
from agents import registry
from agents.config import CHOICES, check_config, usual
from agents.evaluation.metric import Metric
from agents.registry import AGENTS, BACKWARD, METRICS, NETWORKS, Choice, Registry, bare, preset_names, preset_values
from agents.settings import InvalidSettingError, Settings

REGISTRIES: dict[str, Registry[Any]] = {
    "agent": AGENTS,
    "backward policy": BACKWARD,
    "network": NETWORKS,
    "metric": METRICS,
}
REGISTER: dict[str, Callable[[str, str], None]] = {
    "agent": agents.register_agent,
    "backward policy": agents.register_backward,
    "network": agents.register_network,
    "metric": agents.register_metric,
    "preset": agents.register_preset,
}
"""The calls that register, by what they register."""

PARTS = """
import dataclasses, sys, agents
from agents.objectives.balance import DetailedBalanceSettings
from agents.backward import UniformSettings
from agents.networks.mlp import MLPSettings
from agents.evaluation.modes import ModeMetrics

def preset(choice):
    return {"batch_size": 3}

@dataclasses.dataclass(frozen=True)
class Own(DetailedBalanceSettings):
    \"\"\"An agent of one's own.\"\"\"
    mine: float = 0.5

agents.register_agent("own", "my_parts:Own")
agents.register_backward("own", "my_parts:UniformSettings")
agents.register_network("own", "my_parts:MLPSettings")
agents.register_metric("own", "my_parts:ModeMetrics")
agents.register_preset("own", "my_parts:preset")
"""


@pytest.fixture
def my_parts(tmp_path: Path) -> Iterator[None]:
    """A module that registers one of each kind by the name "own"."""
    with own_modules(tmp_path, my_parts=PARTS, no_parts=""):
        yield


# --- A registry -----------------------------------------------------------------------------------------------------


def test_a_name_stands_for_what_was_registered_last_and_names_keep_their_order() -> None:
    things: Registry[Any] = Registry("thing")
    assert things.names() == []
    for name, thing in (("b", "math:pi"), ("a", "math:tau"), ("b", "math:e")):
        things.register(name, thing)
    import math

    assert things.names() == ["b", "a"]
    assert (things.find("b"), things.find("a")) == (math.e, math.tau)


def test_what_is_registered_is_imported_only_when_it_is_found(my_parts: None) -> None:
    things: Registry[Any] = Registry("thing")
    things.register("late", "my_parts:Own")
    assert things.names() == ["late"]
    assert "my_parts" not in sys.modules
    assert things.find("late").__name__ == "Own"
    assert "my_parts" in sys.modules


def test_what_cannot_be_imported_or_is_not_there_is_named() -> None:
    things: Registry[Any] = Registry("thing")
    things.register("nowhere", "no_such_module:thing")
    things.register("nothing", "math:no_such_thing")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        things.find("nowhere")
    with pytest.raises(ValueError, match="'math:no_such_thing' is registered, but math has no no_such_thing"):
        things.find("nothing")


BAD_REFERENCES = ["", "thing", "module:", ":thing", ":"]
BAD_NAMES = ["", " ", " own", "own ", "my:own", ":", "own:", "my+own", "+"]


@pytest.mark.parametrize("kind", REGISTER)
def test_a_reference_that_names_no_module_or_no_thing_is_refused_when_registered(kind: str, my_parts: None) -> None:
    before = _names(kind)
    for thing in BAD_REFERENCES:
        with pytest.raises(ValueError, match=rf"must read 'module:Class', got '{thing}'"):
            REGISTER[kind]("own", thing)
    assert _names(kind) == before


@pytest.mark.parametrize("kind", REGISTER)
def test_a_name_that_could_not_be_written_on_a_command_line_is_refused(kind: str, my_parts: None) -> None:
    before = _names(kind)
    for name in BAD_NAMES:
        told = re.escape(f"name of {kind} must have no colon, no plus and no outer spaces, got '{name}'")
        with pytest.raises(ValueError, match=told):
            REGISTER[kind](name, "my_parts:Own")
    assert _names(kind) == before


def _names(kind: str) -> list[str]:
    return preset_names() if kind == "preset" else REGISTRIES[kind].names()


def _find(kind: str, name: str) -> Any:
    if kind == "preset":
        return preset_values(name, Choice("gfn/Hypergrid-v0", "tb", "tlm", "mlp"))
    return REGISTRIES[kind].find(name)


@pytest.mark.parametrize("kind", REGISTER)
def test_a_module_before_the_name_is_imported_and_registers_it(kind: str, my_parts: None) -> None:
    with pytest.raises(ValueError, match=f"Unknown {kind} 'own'"):
        _find(kind, "own")
    with_module = _find(kind, "my_parts:own")
    assert "own" in _names(kind)
    assert _find(kind, "own") == with_module
    assert bare("my_parts:own") == bare("own") == "own"


@pytest.mark.parametrize("kind", REGISTER)
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("no_such_module:own", "cannot import 'no_such_module'"),
        ("no_parts.deeper:own", "cannot import 'no_parts.deeper'"),
        (":own", "'' is not the name of a module"),
        ("../parts:own", "'../parts' is not the name of a module"),
        ("no_parts:own", "Unknown {kind} 'own'. Known, closest first: "),
        ("my_parts:onw", "Unknown {kind} 'onw'. Known, closest first: own, "),
        ("my_parts:", "Unknown {kind} ''. Known, closest first: "),
    ],
)
def test_a_module_that_cannot_be_imported_or_registers_no_such_name_is_told(
    kind: str, name: str, told: str, my_parts: None
) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011  (the message is looked at below)
        _find(kind, name)
    assert told.format(kind=kind) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", REGISTER)
def test_an_unknown_name_lists_all_names_the_closest_first(kind: str) -> None:
    for name in _names(kind):
        for wrong in (name + "x", name.upper()):
            with pytest.raises(ValueError) as error:  # noqa: PT011
                _find(kind, wrong)
            start = f"Unknown {kind} {wrong!r}. Known, closest first: "
            assert str(error.value).startswith(start)
            listed = str(error.value).removeprefix(start).removesuffix(".").split(", ")
            assert listed[0] == name
            assert sorted(listed) == sorted(_names(kind))


# --- What the project registers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in CHOICES for name in CHOICES[kind].names()])
def test_every_choice_is_a_documented_group_of_settings_with_defaults(kind: str, name: str) -> None:
    cls = CHOICES[kind].find(name)
    base = {
        "agent": agents.AgentSettings,
        "backward": agents.BackwardSettings,
        "sampler": agents.SamplerSettings,
        "network": agents.NetworkSettings,
    }[kind]
    assert issubclass(cls, base)
    assert issubclass(cls, Settings)
    assert dataclasses.is_dataclass(cls)
    assert cls() == cls()
    with pytest.raises(dataclasses.FrozenInstanceError):
        cls().anything = 1
    assert len((inspect.getdoc(cls) or "").split("\n")[0]) > 20


@pytest.mark.parametrize("name", METRICS.names())
def test_every_metric_is_one(name: str) -> None:
    assert issubclass(METRICS.find(name), Metric)
    assert inspect.getdoc(METRICS.find(name))


# --- Presets --------------------------------------------------------------------------------------------------------

LAYERS = """
import agents

seen = []

def default(choice):
    seen.append(choice)
    return {"batch_size": 1, "trajectories": 1, "seed": 1, "eval_every": 1}

def default_here(choice):
    return {"trajectories": 2, "seed": 2, "eval_every": 2}

def own(choice):
    return {"seed": 3, "eval_every": 3}

def own_here(choice):
    return {"eval_every": 4}

def typo(choice):
    return dict([TYPOS[choice.backward]])

TYPOS = {
    "uniform": ("agent.lrr", 0.1),
    "maxent": ("agnet.lr", 0.1),
    "naive": ("learnig_starts", 3),
    "tlm": ("agent.lr", "0.1"),
    "pessimistic": ("batch_size", 0),
}

agents.register_preset("default", "my_presets:default")
agents.register_preset("default", "my_presets:default_here", env="gfn/BitSequence-v0")
agents.register_preset("own", "my_presets:own")
agents.register_preset("own", "my_presets:own_here", env="gfn/BitSequence-v0")
agents.register_preset("elsewhere", "my_presets:own_here", env="gfn/BitSequence-v0")
agents.register_preset("typo", "my_presets:typo")
"""
MERGED = ("batch_size", "trajectories", "seed", "eval_every")


@pytest.fixture
def my_presets(tmp_path: Path) -> Iterator[None]:
    """A module that registers presets on every level."""
    with own_modules(tmp_path, my_presets=LAYERS):
        yield


@pytest.mark.parametrize(
    ("env", "preset", "expected"),
    [
        ("gfn/Hypergrid-v0", "default", (1, 1, 1, 1)),
        ("gfn/BitSequence-v0", "default", (1, 2, 2, 2)),
        ("gfn/Hypergrid-v0", "own", (1, 1, 3, 3)),
        ("gfn/BitSequence-v0", "own", (1, 2, 3, 4)),
        ("gfn/Hypergrid-v0", "elsewhere", (1, 1, 1, 1)),
        ("gfn/BitSequence-v0", "elsewhere", (1, 2, 2, 4)),
    ],
)
def test_presets_go_on_top_of_the_default_and_those_of_an_environment_on_top_of_those_of_all(
    env: str, preset: str, expected: tuple[int, ...], my_presets: None
) -> None:
    for name in (f"my_presets:{preset}", preset):
        config = usual(env, "tb", "tlm", preset=name)
        assert tuple(config.flat()[setting] for setting in MERGED) == expected
        assert config.preset == name
        check_config(config)


def test_a_preset_gets_the_names_without_their_modules(my_presets: None, my_parts: None) -> None:
    usual("gfn_envs:gfn/BitSequence-v0", "my_parts:own", "my_parts:own", "my_parts:own", "my_presets:default")
    assert set(sys.modules["my_presets"].seen) == {Choice("gfn/BitSequence-v0", "own", "own", "own")}


def test_presets_hold_for_an_id_with_its_module() -> None:
    for preset in ("default", "paper"):
        for env in ("gfn/BitSequence-v0", "gfn/QM9-v0"):
            bare_id, with_module = (usual(each, "tb", preset=preset) for each in (env, f"gfn_envs:{env}"))
            assert with_module.differences(bare_id) == {"env": (f"gfn_envs:{env}", env)}
        plain = usual("gfn/HypergridHard-v0", "tb", preset=preset)
        assert plain.batch_size != usual("gfn/QM9-v0", "tb", preset=preset).batch_size


@pytest.mark.parametrize(
    ("backward", "told"),
    [
        ("uniform", "unknown settings: agent.lrr. There are here: agent.lr, "),
        ("maxent", "unknown settings: agnet.lr. Groups of settings are agent, backward, sampler, network, eval."),
        ("naive", "unknown settings: learnig_starts. There are here: "),
        ("tlm", "--agent.lr must be of type float, got '0.1'"),
        ("pessimistic", "--batch-size must lie in 1 .. 1e+07, got 0"),
    ],
)
def test_a_mistake_in_a_preset_is_an_error(backward: str, told: str, my_presets: None) -> None:
    with pytest.raises(InvalidSettingError) as error:
        check_config(usual(agent="tb", backward=backward, preset="my_presets:typo"))
    assert told in str(error.value)


@pytest.mark.parametrize("preset", preset_names())
def test_the_projects_own_presets_hold_for_every_choice_on_every_environment(preset: str) -> None:
    envs = {env for rows in registry._PRESETS.values() for env in rows if env != registry.EVERY_ENV}
    for env in {"gfn/Hypergrid-v0", *envs}:
        for agent in AGENTS.names():
            for backward in BACKWARD.names():
                check_config(usual(env, agent, backward, preset=preset))
            check_config(usual(env, agent, network="mlp", preset=preset))
