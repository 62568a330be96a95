"""Settings survive a round trip, and what has no place, the wrong type or no effect, or lies out of range, is told."""

import dataclasses
import itertools
import json
import math
import sys
import typing
from pathlib import Path
from typing import Any, Literal

import pytest
from own_modules import own_modules
from pairs import LAWFUL, PAIRS, every_setting

from agents.config import CHOICES, Config, check_config, usual, with_values
from agents.evaluation.settings import EvaluationSettings
from agents.objectives.trajectory import TrajectoryBalanceSettings
from agents.registry import AGENTS, BACKWARD, NETWORKS
from agents.runs.folder import RunFileError, RunFolder
from agents.settings import Bounds, InvalidSettingError, Settings, field_types, flag_of, values_of

FITTING = {
    "graph": "gfn/QM9-v0",
    "transformer": "gfn/BitSequence-v0",
    "slots": "gfn/PhyloTree-v0",
    "mlp": "gfn/Hypergrid-v0",
}
"""An environment that each network fits."""
NEEDS = {"epsilon_end": {"epsilon_trajectories": 9}}
"""What puts a setting to use that otherwise has no effect."""


def _types() -> dict[str, Any]:
    """Return the annotation of every setting of all runs and of all choices, by dotted name."""
    types = {name: each for name, each in field_types(Config).items() if not _is_group(each)}
    types |= {f"eval.{name}": each for name, each in field_types(EvaluationSettings).items()}
    for kind, choices in CHOICES.items():
        for name in choices.names():
            types |= {f"{kind}.{setting}": each for setting, each in field_types(choices.find(name)).items()}
    return types


def _bare(annotation: Any) -> Any:
    return typing.get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation


def _is_group(annotation: Any) -> bool:
    return isinstance(_bare(annotation), type) and issubclass(_bare(annotation), Settings)


TYPES = _types()
BOUNDS = {name: b for name, each in TYPES.items() for b in getattr(each, "__metadata__", ()) if isinstance(b, Bounds)}


def _reading(name: str) -> Config:
    """Return usual settings of choices that own a setting, and read it."""
    chosen: dict[str, str] = {}
    kind, dot, setting = name.partition(".")
    if dot and kind in CHOICES:
        chosen[kind] = next(each for each in CHOICES[kind].names() if setting in field_types(CHOICES[kind].find(each)))
    env = FITTING[chosen.get("network", "mlp")]
    return with_values(usual(env, **{"network": "mlp", **chosen}), NEEDS.get(name, {}))


def _other(name: str, value: Any) -> Any:
    """Return another lawful value of a setting."""
    bare = _bare(TYPES[name])
    if typing.get_origin(bare) is Literal:
        return next(each for each in typing.get_args(bare) if each != value)
    if typing.get_origin(bare) is tuple:
        return (*value, "modes")
    if bare is bool:
        return not value
    if bare is str:
        return {"env_kwargs": '{"dim": 3}', "device": "cpu", "preset": "paper"}[name]
    low, high = BOUNDS[name].low, BOUNDS[name].high
    others = (value + 1, value - 1) if bare is int else (0.3, 0.4, -0.3)
    return next(each for each in others if each != value and low <= each <= high)


def test_the_settings_looked_at_here_are_all_there_are() -> None:
    assert set(TYPES) == every_setting()


# --- Round trips ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS.names())
@pytest.mark.parametrize(("agent", "backward"), PAIRS)
def test_every_setting_of_every_choice_survives_a_flat_file(agent: str, backward: str, network: str) -> None:
    usually = usual(FITTING[network], agent, backward, network)
    fixed = {"env", *CHOICES}
    changed = {name: _other(name, value) for name, value in usually.flat().items() if name not in fixed}
    config = with_values(usually, changed)
    assert config.differences(usually).keys() == changed.keys()
    written = json.loads(config.to_json())
    assert written.keys() == {"format", "kind", *usually.flat()}
    assert written["format"] == 2
    assert not any(isinstance(value, dict) for value in written.values())
    assert {name: type(written[name])(value) for name, value in config.flat().items()} == {
        name: written[name] for name in config.flat()
    }
    assert Config.from_json(config.to_json()) == config
    assert Config.from_json(usually.to_json()) == usually != config


def test_settings_that_a_file_leaves_out_have_the_defaults_of_their_fields() -> None:
    config = Config.from_json('{"format": 2, "kind": "agents.runs.kinds:AgentRun", "agent": "tb", "agent.lr": 1}')
    assert config == Config(agent="tb", agent_settings=TrajectoryBalanceSettings(lr=1.0))
    assert type(config.flat()["agent.lr"]) is float


def test_differences_are_named_on_both_sides_also_between_choices() -> None:
    one, other = usual(agent="tb"), usual(agent="mdqn")
    told = one.differences(other)
    assert told["agent"] == ("tb", "mdqn")
    assert told["agent.log_z_lr"] == (0.1, None)
    assert told["agent.alpha"] == (None, 0.15)
    assert "agent.lr" not in told
    assert other.differences(one) == {name: (b, a) for name, (a, b) in told.items()}
    assert one.differences(one) == {}


OWN_AGENT = """
import dataclasses, agents
from agents.objectives.balance import DetailedBalanceSettings

@dataclasses.dataclass(frozen=True)
class Own(DetailedBalanceSettings):
    mine: float = 0.5

agents.register_agent("own", "my_agent:Own")
"""


def test_a_name_with_its_module_survives_and_imports_the_module_again(tmp_path: Path) -> None:
    for _ in range(2):  # as in two processes: what the module registers is forgotten in between
        with own_modules(tmp_path, my_agent=OWN_AGENT):
            assert "my_agent" not in sys.modules
            if not (tmp_path / "config.json").exists():
                config = with_values(usual(agent="my_agent:own"), {"agent.mine": 0.75})
                (tmp_path / "config.json").write_text(config.to_json())
            read = RunFolder(tmp_path, Config).read_config()
            assert read.agent == "my_agent:own"
            assert read.flat()["agent.mine"] == 0.75
            assert type(read.agent_settings).__module__ == "my_agent"
            check_config(read)
    with pytest.raises(RunFileError, match="cannot import 'my_agent'"):
        RunFolder(tmp_path, Config).read_config()


# --- Files of other versions ----------------------------------------------------------------------------------------

BEFORE = {
    "agent": "mdqn",
    "backward": "tlm",
    "env": "gfn/Hypergrid-v0",
    "trajectories": 1000,
    "optim": {"lr": 1e-3, "log_z_lr": 0.1},
    "pb": {"lr": 1e-3, "exact_maxent": True},
    "net": {"width": 256},
}
"""Settings as version 0.1 wrote them."""


def test_settings_of_another_version_are_refused_by_name() -> None:
    with pytest.raises(InvalidSettingError, match=r"it was written by gfn-envs 0\.1, and this version reads .* only"):
        Config.from_json(json.dumps(BEFORE))
    for other in (0, 3, "2", None, 2.5, [2]):
        written = json.loads(usual().to_json()) | {"format": other}
        with pytest.raises(InvalidSettingError, match="it was written by another version of gfn-envs"):
            Config.from_json(json.dumps(written))


def test_settings_of_another_kind_of_run_are_refused() -> None:
    written = json.loads(usual().to_json())
    for kind, told in (("baselines.kind:Run", "another kind of run"), (None, "which kind"), (3, "which kind")):
        with pytest.raises(InvalidSettingError, match=told):
            Config.from_json(json.dumps(written | {"kind": kind}))


# --- Bounds ---------------------------------------------------------------------------------------------------------


def test_every_number_has_bounds_that_hold_its_default_and_nothing_else_has() -> None:
    numbers = {name for name, each in TYPES.items() if _bare(each) in (int, float)}
    assert set(BOUNDS) == numbers
    for name, bounds in BOUNDS.items():
        assert bounds.low <= _reading(name).flat()[name] <= bounds.high
        assert bounds.low < bounds.high


@pytest.mark.parametrize("name", BOUNDS)
def test_both_ends_of_a_range_are_allowed_and_what_lies_just_outside_is_told_with_its_flag(name: str) -> None:
    config, bounds, kind = _reading(name), BOUNDS[name], _bare(TYPES[name])
    for end in (bounds.low, bounds.high):
        check_config(with_values(config, {name: kind(end)}))
    if kind is int:
        outside = [int(bounds.low) - 1, int(bounds.high) + 1, -(10**30), 10**30]
    else:
        outside = [math.nextafter(bounds.low, -math.inf), math.nextafter(bounds.high, math.inf)]
        outside += [-math.inf, math.inf, math.nan]
    for value in outside:
        with pytest.raises(InvalidSettingError) as error:
            check_config(with_values(config, {name: value}))
        told = f"{flag_of(name)} must lie in {bounds.low:g} .. {bounds.high:g}, got {value!r}."
        assert str(error.value) == told


# --- Types ----------------------------------------------------------------------------------------------------------

WRONG: dict[Any, list[Any]] = {
    int: ["1", 1.0, True, None, [1], {}],
    float: ["0.1", True, None, [0.1]],
    bool: ["true", 1, 0, None],
    str: [1, None, ["a"], True],
}


@pytest.mark.parametrize("name", TYPES)
def test_a_value_of_the_wrong_type_is_told_with_its_flag_wherever_it_comes_from(name: str) -> None:
    bare, config = _bare(TYPES[name]), _reading(name)
    if typing.get_origin(bare) is Literal:
        wrong = ["nothing like it", 3, None]
    elif typing.get_origin(bare) is tuple:
        wrong = ["modes", [1], 3, None]
    else:
        wrong = WRONG[bare]
    group = {"eval": "eval", **{kind: f"{kind}_settings" for kind in CHOICES}}.get(name.partition(".")[0])
    for value in wrong:
        told = f"{flag_of(name)} must be "
        with pytest.raises(InvalidSettingError) as error:
            Config.from_flat({**config.flat(), name: value})
        assert str(error.value).startswith(told)
        if name in CHOICES:
            continue
        # The same in Python, where no one reads a file.
        if "." in name and group:
            section = dataclasses.replace(getattr(config, group), **{name.partition(".")[2]: value})
            made = dataclasses.replace(config, **{group: section})
        else:
            made = dataclasses.replace(config, **{name: value})
        if name in ("env", "preset"):
            continue
        with pytest.raises(InvalidSettingError) as error:
            check_config(made)
        assert str(error.value).startswith(told), value


def test_a_group_of_settings_of_another_choice_is_told() -> None:
    config = usual(agent="mdqn")
    for group, other in (("agent_settings", TrajectoryBalanceSettings()), ("eval", TrajectoryBalanceSettings())):
        with pytest.raises(InvalidSettingError, match=r"has settings of type .*, got TrajectoryBalanceSettings"):
            check_config(dataclasses.replace(config, **{group: other}))
    with pytest.raises(InvalidSettingError, match="--agent tb has settings of type TrajectoryBalanceSettings, got Mun"):
        check_config(dataclasses.replace(config, agent="tb"))


# --- What has no place and no effect --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"agnet": "db"}, "unknown settings: agnet. There are here: agent, backward, "),
        ({"backward.lrr": 1.0}, "unknown settings: backward.lrr. There are here: backward.lr, "),
        ({"agent.alpha": 0.1}, "unknown settings: agent.alpha. There are here: agent.lr, "),
        (
            {"pb.lr": 0.1, "pb.x": 1},
            "unknown settings: pb.lr, pb.x. Groups of settings are agent, backward, sampler, network, ",
        ),
        ({"network_settings": {"width": 3}}, "unknown settings: network_settings."),
        ({"eval": {}}, "unknown settings: eval."),
        ({"agent.": 1}, "unknown settings: agent.."),
        ({".lr": 1}, "unknown settings: .lr."),
        ({"agent.lr.x": 1}, "unknown settings: agent.lr.x."),
    ],
)
def test_a_setting_without_a_place_is_told_with_those_that_there_are(values: dict[str, Any], told: str) -> None:
    for call in (lambda: with_values(usual(agent="tb"), values), lambda: Config.from_flat({"agent": "tb", **values})):
        with pytest.raises(InvalidSettingError) as error:
            call()
        assert str(error.value).startswith(told)


def _with_unread() -> list[tuple[str, str, dict[str, Any], str]]:
    """Return each setting that some value of a flag of its group puts out of use: kind, choice, that flag, setting."""
    found = []
    for kind, choices in CHOICES.items():
        for choice in choices.names():
            usually = choices.find(choice)()
            for name, value in values_of(usually).items():
                if isinstance(value, bool):
                    put = dataclasses.replace(usually, **{name: not value})
                    found += [(kind, choice, {name: not value}, each) for each in sorted(put.unread())]
    return found


def test_the_settings_that_can_be_out_of_use_are_those_of_the_replay() -> None:
    replay = {"replay_capacity", "replay_batch", "priority_alpha", "priority_beta"}
    expected = {("agent", agent, setting) for agent, setting in itertools.product(("softdqn", "mdqn"), replay)}
    assert {(kind, choice, setting) for kind, choice, _, setting in _with_unread()} == expected


@pytest.mark.parametrize(("kind", "choice", "flag", "setting"), _with_unread())
@pytest.mark.parametrize("env", ["gfn/Hypergrid-v0", "gfn/BitSequence-v0"])
def test_a_setting_out_of_use_is_told_unless_it_has_its_usual_value(
    kind: str, choice: str, flag: dict[str, Any], setting: str, env: str
) -> None:
    name = f"{kind}.{setting}"
    config = usual(env, network="mlp", **{kind: choice})
    off = with_values(config, {f"{kind}.{each}": value for each, value in flag.items()})
    check_config(off)  # also where a preset sets it, as that of bit sequences does
    value = _other(name, config.flat()[name])
    check_config(with_values(config, {name: value}))
    with pytest.raises(InvalidSettingError) as error:
        check_config(with_values(off, {name: value}))
    assert str(error.value) == f"{flag_of(name)} {value} has no effect with --{kind} {choice}: leave it out."


def test_the_end_of_a_schedule_that_is_off_is_told() -> None:
    check_config(with_values(usual(), {"epsilon_end": 0.1, "epsilon_trajectories": 100}))
    with pytest.raises(InvalidSettingError, match=r"--epsilon-end 0\.1 has no effect"):
        check_config(with_values(usual(), {"epsilon_end": 0.1}))


# --- Names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"env": "gfn/Hypergird-v0"}, "Unknown environment id 'gfn/Hypergird-v0'. Known, closest first: gfn/Hypergrid"),
        ({"agent": "mdqm"}, "Unknown agent 'mdqm'. Known, closest first: mdqn, "),
        ({"backward": "TLM"}, "Unknown backward policy 'TLM'. Known, closest first: tlm, "),
        ({"network": "transfomer"}, "Unknown network 'transfomer'. Known, closest first: transformer, "),
        ({"network": "transformer"}, "--network transformer needs Hypergrid to offer token_view()"),
        ({"preset": "papers"}, "Unknown preset 'papers'. Known, closest first: paper, "),
        ({"metrics": ("exakt",)}, "Unknown metric 'exakt'. Known, closest first: exact, "),
    ],
)
def test_unknown_and_unfitting_names_are_told(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        check_config(dataclasses.replace(usual(), **change))
    assert str(error.value).startswith(told)
    if "metrics" not in change:
        with pytest.raises(ValueError) as error:  # noqa: PT011
            usual(**change)
        assert str(error.value).startswith(told)


@pytest.mark.parametrize("bad", ["{dim: 2}", "[2]", "", "null", "[" * 100_000, '{"device": "cpu"}'])
def test_keyword_arguments_that_are_no_object_are_told(bad: str) -> None:
    with pytest.raises(ValueError, match="--env-kwargs"):
        dataclasses.replace(usual(), env_kwargs=bad).parsed_env_kwargs()


def test_usual_settings_are_lawful_for_every_choice() -> None:
    for agent, backward in LAWFUL:
        for network, env in FITTING.items():
            check_config(usual(env, agent, backward, network))
    assert {usual(env).network for env in FITTING.values()} == set(FITTING)
    assert set(AGENTS.names()) == {agent for agent, _ in LAWFUL}
    assert set(BACKWARD.names()) == {backward for _, backward in LAWFUL}
