"""Samplers joined by + each add what they add alone, see what those before them found, and have their own settings."""

import json
from pathlib import Path

import pytest
from own_modules import own_modules
from wanderers import built, distances, generator, small

from agents.config import Config, check_config, usual, with_values
from agents.registry import SAMPLERS, bare
from agents.runs.train import main, method_of
from agents.sampling.mixture import Mixture, mixture
from agents.sampling.replay import Replay
from agents.settings import InvalidSettingError, field_types, meanings

BOTH = "random-stop+replay"
OWN = """
from dataclasses import dataclass
from agents.registry import register_sampler
from agents.sampling.random_stop import RandomStopSettings

@dataclass(frozen=True)
class Own(RandomStopSettings):
    fixed: bool = False
    number: int = 3

    def unread(self):
        return frozenset() if self.fixed else frozenset({"number"})

register_sampler("own", f"{__name__}:Own")
"""


def test_each_adds_as_many_as_alone_and_the_fresh_ones_are_counted_once() -> None:
    alone = {}
    for name in (BOTH, *BOTH.split("+")):
        shares = {"random-stop": {"sampler.share": 0.2}, "replay": {"sampler.share": 0.4}}
        joined = {"sampler.random_stop_share": 0.2, "sampler.replay_share": 0.4}
        trainer = built(small(name, **shares.get(name, joined)))
        batch = trainer.collect()
        assert len(batch.fresh.mask) == 16
        alone[name] = len(batch.all.mask) - 16
        if name != "replay":
            assert trainer.reward_calls == 16 + 4, "a replayed object costs nothing"
    assert alone == {"random-stop": 4, "replay": 11, BOTH: 15}


@pytest.mark.parametrize(("name", "sees"), [("random-stop+replay", True), ("replay+random-stop", False)])
def test_a_sampler_sees_what_those_before_it_found(name: str, sees: bool) -> None:
    given = {"env_kwargs": '{"dim": 3, "side": 8}', "sampler.random_stop_share": 0.7}
    trainer = built(small(name, **given))
    batch = trainer.collect()
    sampler = trainer.sampler
    assert isinstance(sampler, Mixture)
    (replay,) = (each for each in sampler.samplers if isinstance(each, Replay))
    kept = {tuple(row) for row in replay.store.state_dict()["states"].tolist()}
    fresh, every = ({tuple(row) for row in each.terminal_states.tolist()} for each in (batch.fresh, batch.all))
    assert fresh < every
    assert kept == (every if sees else fresh)


def test_of_one_mixture_all_draw_from_one_stream_of_random_numbers() -> None:
    for values in ({}, {"sampler.copy_rate": 0.2}):
        one, two = (built(small(BOTH, **values)) for _ in range(2))
        for _ in range(3):
            states = [each.sampler.collect(each.agent, 0.1, each.generator).batch.all.states for each in (one, two)]
            assert states[0].equal(states[1])
    drawn = one.sampler.collect(one.agent, 0.1, generator(1)).batch.all.states
    assert drawn.shape != states[0].shape or not drawn.equal(states[0])


def test_the_settings_are_those_of_the_parts_behind_their_names() -> None:
    config = usual(sampler="random-stop+local-search")
    flat = {name: value for name, value in config.flat().items() if name.startswith("sampler.")}
    expected = {"sampler.copy_rate": 0.0}
    for name in ("random-stop", "local-search"):
        own = usual(sampler=name).flat()
        front = f"sampler.{name.replace('-', '_')}_"
        expected |= {front + key[8:]: own[key] for key in own if key.startswith("sampler.") and key[8:] != "copy_rate"}
    assert flat == expected
    check_config(with_values(config, {"sampler.random_stop_share": 0.5}))
    assert SAMPLERS.find("random-stop+local-search") is type(config.sampler_settings)


def test_a_mixture_is_read_back_from_its_file() -> None:
    config = with_values(usual(sampler=BOTH), {"sampler.replay_top": 0.3, "sampler.copy_rate": 0.1})
    assert Config.from_json(config.to_json()) == config
    assert json.loads(config.to_json())["sampler.replay_top"] == 0.3
    other = config.to_json().replace(BOTH, "replay")
    with pytest.raises(InvalidSettingError, match=r"unknown settings: .*sampler\.replay_top"):
        Config.from_json(other)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"sampler.share": 0.3}, r"unknown settings: sampler\.share\. There are here: .*sampler\.random_stop_share"),
        ({"sampler.replay_share": 1.0}, r"--sampler\.replay-share must lie in 0 \.\. 0\.99, got 1\.0"),
        ({"sampler.replay_capacity": 0.5}, r"--sampler\.replay-capacity must be of type int, got 0\.5"),
    ],
)
def test_a_wrong_setting_of_a_part_is_told(values: dict[str, float], told: str) -> None:
    with pytest.raises(InvalidSettingError, match=told):
        check_config(with_values(usual(sampler=BOTH), values))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("replay+replay", r"--sampler replay\+replay names replay twice"),
        ("replay+rply", "Unknown sampler 'rply'. Known, closest first: replay"),
        ("replay+", "Unknown sampler ''"),
        ("+", "Unknown sampler ''"),
        ("replay+tb", "Unknown sampler 'tb'"),
    ],
)
def test_a_mixture_of_what_is_no_sampler_or_twice_the_same_is_refused(name: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        usual(sampler=name)


def test_the_help_of_a_part_is_the_help_of_its_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--sampler", BOTH, "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name in BOTH.split("+"):
        settings = SAMPLERS.find(name)
        for field in set(field_types(settings)) - {"copy_rate"}:
            flag = f"--sampler.{name}-{field.replace('_', '-')}"
            assert flag in shown
            assert meanings(settings)[field] in shown


def test_samplers_of_the_users_own_are_parts_too(tmp_path: Path) -> None:
    with own_modules(tmp_path, my_sampler=OWN):
        name = "replay+my_sampler:own"
        config = small(name, **{"sampler.own_share": 0.5})
        assert bare(name) == "replay+own"
        assert method_of(config) == "db-tlm-replay+own"
        assert len(built(config).collect().all.mask) == 16 * 3
        assert Config.from_json(config.to_json()) == config
        check_config(with_values(config, {"sampler.own_fixed": True, "sampler.own_number": 4}))
        with pytest.raises(InvalidSettingError, match=r"--sampler\.own-number 4 has no effect with --sampler replay"):
            check_config(with_values(config, {"sampler.own_number": 4}))


def test_a_part_that_the_environment_cannot_serve_says_so() -> None:
    config = with_values(usual("gfn/Set-v0", sampler="replay+random-stop"), {"device": "cpu"})
    with pytest.raises(ValueError, match=r"--sampler random-stop needs a stop action, and Subset has none"):
        built(config)


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["tb", "db"])
def test_a_small_grid_is_learned_from_a_mixture(agent: str) -> None:
    given = {"env_kwargs": '{"dim": 2, "side": 3}', "network.width": 32, "epsilon": 0.0, "agent.lr": 0.01}
    trainer = built(small(BOTH, agent, "uniform", **given, **{"sampler.random_stop_share": 0.5}))
    start, end = distances(trainer, 200)
    assert end < 0.05 < start / 8


def test_equal_parts_have_one_class_of_settings() -> None:
    parts = tuple((name, SAMPLERS.find(name)) for name in BOTH.split("+"))
    assert mixture(parts) is mixture(parts)
    assert mixture(parts) is not mixture(parts[::-1])
