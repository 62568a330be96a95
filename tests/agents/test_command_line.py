"""Every flag has an effect and an explanation, and what is wrong is refused with the flag and the value."""

import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pairs import every_setting
from run_files import BASE, contents, metrics_of, refused, state_of, untimed

import gfn_envs
from agents import registry
from agents.config import CHOICES, usual
from agents.model import resolve_device
from agents.registry import AGENTS, BACKWARD, METRICS, NETWORKS, SAMPLERS
from agents.runs.train import Options, main, parse

# Wrong input


@pytest.mark.parametrize(
    ("flag", "value", "first"),
    [
        ("--agent", "mdqm", "mdqn"),
        ("--agent", "sub-tb", "subtb"),
        ("--backward", "pesimistic", "pessimistic"),
        ("--env", "gfn/Hypergird-v0", "gfn/Hypergrid-v0"),
        ("--network", "mpl", "mlp"),
        ("--network", "aut", "auto"),
        ("--preset", "papers", "paper"),
        ("--device", "gpu", "cpu"),
    ],
)
def test_an_unknown_name_lists_the_known_ones_closest_first(
    flag: str, value: str, first: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, flag, value, "--out", tmp_path / "run")
    kind = {"--env": "environment id", "--backward": "backward policy"}.get(flag, flag[2:])
    assert f"Unknown {kind} {value!r}. Known, closest first: {first}," in message
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
        ('{"sied": 5}', "Hypergrid got an unexpected keyword argument 'sied'. Known, closest first: side,"),
        ('{"id": 5}', "unexpected keyword argument 'id'"),
        ('{"dag": 5}', "unexpected keyword argument 'dag'"),
        ('{"device": "cpu"}', "use --device"),
        ('{"side": 4', "--env-kwargs is not JSON"),
        ("[1, 2]", "--env-kwargs must be a JSON object"),
        ("side=4", "--env-kwargs is not JSON"),
        ("", "--env-kwargs is not JSON"),
    ],
)
def test_wrong_keyword_arguments_name_the_argument_and_the_value(
    kwargs: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
        ("--agent.lr", "nan"),
        ("--agent.lr", "inf"),
        ("--agent.lr", "-1"),
        ("--backward.lr", "nan"),
        ("--backward.target-rate", "1.5"),
        ("--agent.alpha", "1"),
        ("--agent.replay-capacity", "0"),
        ("--agent.priority-alpha", "nan"),
        ("--network.width", "0"),
        ("--network.layers", "0"),
    ],
)
def test_a_number_out_of_range_names_flag_and_value(
    flag: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs = ["--epsilon-trajectories", "9"] if flag == "--epsilon-end" else []
    message = refused(capsys, *BASE, *needs, flag, value, "--out", tmp_path / "run")
    assert f"{flag} must lie in" in message
    assert f"got {float(value)}" in message or f"got {value}" in message
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    "arguments",
    [["--batch-size", "ten"], ["--trajectories", "1e6"], ["--batch-size"], ["--agent"], ["--no-such-flag"], ["stray"]],
)
def test_a_command_that_cannot_be_read_says_what_is_wrong(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert arguments[-1].lstrip("-") in refused(capsys, *BASE, "--out", tmp_path / "run", *arguments)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--agent", "db", "--agent.alpha", "0.3"],
        ["--agent", "softdqn", "--agent.alpha", "0.3"],
        ["--agent", "db", "--agent.lamda", "0.5"],
        ["--agent", "mdqn", "--agent.log-z-lr", "0.5"],
        ["--backward", "naive", "--backward.lr", "0.5"],
        ["--backward", "tlm", "--backward.past-batches", "5"],
        ["--network", "mlp", "--network.attention-heads", "2"],
    ],
)
def test_a_setting_that_no_choice_owns_is_an_unknown_flag(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, *BASE, *arguments, "--out", tmp_path / "run")
    assert f"Unrecognized options: {arguments[-2]}" in message
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("needs", "given", "told"),
    [
        (["--agent.on-policy"], ["--agent.replay-batch", "9"], " with --agent mdqn"),
        (["--agent.on-policy"], ["--agent.priority-beta", "0.5"], " with --agent mdqn"),
        ([], ["--epsilon-end", "0.5"], ""),
    ],
)
def test_a_setting_that_others_put_out_of_use_is_refused(
    needs: list[str], given: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, *BASE, *needs, *given, "--out", tmp_path / "run")
    assert f"{' '.join(given)} has no effect{told}" in message
    assert contents(tmp_path) == {}


def test_cuda_is_refused_where_there_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--device cuda: torch finds no CUDA device" in refused(capsys, "--device", "cuda", "--out", tmp_path / "run")
    assert contents(tmp_path) == {}


# Every flag


FITTING = {
    "graph": "gfn/QM9-v0",
    "transformer": "gfn/BitSequence-v0",
    "slots": "gfn/PhyloTree-v0",
    "mlp": "gfn/Hypergrid-v0",
}
CHOSEN = list(zip(AGENTS.names(), *(itertools.cycle(c.names()) for c in (BACKWARD, SAMPLERS, NETWORKS)), strict=False))


@pytest.mark.parametrize("names", CHOSEN, ids="-".join)
def test_help_explains_every_flag_of_what_is_chosen(
    names: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {**dict(zip(CHOICES, names, strict=True)), "env": FITTING[names[-1]]}
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stop:
        main([*(word for name, value in chosen.items() for word in (f"--{name}", value)), "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    flags = [name.replace("_", "-") for name in usual(**chosen).flat()]
    own = {"config": "", "config_file": "config", "progress": "no-progress", "pictures": "no-pictures"}
    flags += filter(None, (own.get(field.name, field.name) for field in dataclasses.fields(Options)))
    plain = re.sub(r"[│╭╮╰╯─ ]+", " ", shown)
    for flag in flags:
        # The flag, its negation if it is a switch, its metavariable, and at least a few words.
        assert re.search(rf"\s--{re.escape(flag)}(, --\S+)?( [\[A-Z{{][^\n]*?)?\s+[A-Z0-9kl].{{8,}}", plain), flag
    every = [name for choices in CHOICES.values() for name in choices.names()]
    for word in (*every, *gfn_envs.registered(), "--resume runs/small", "my_module:my/Env-v0"):
        assert word in shown
    shown_flags = re.findall(r"\s--((?:agent|backward|sampler|network)\.(?!no-)[a-z0-9-]+)", plain)
    assert set(shown_flags) == {flag for flag in flags if flag.partition(".")[0] in CHOICES and "." in flag}


def test_what_is_chosen_is_registered_whole() -> None:
    assert [set(names) for names in zip(*CHOSEN, strict=True)] == [set(c.names()) for c in CHOICES.values()]
    assert set(FITTING) == set(NETWORKS.names())


def test_the_list_shows_everything_that_is_registered(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    groups = {"--env": gfn_envs.registered(), "--metrics": METRICS.names(), "--preset": registry.preset_names()}
    groups |= {f"--{kind}": choices.names() for kind, choices in CHOICES.items()}
    for flag, names in groups.items():
        below = lines[lines.index([flag]) + 1 :]
        shown = {words[0]: words[1:] for words in itertools.takewhile(bool, below)}
        assert shown.keys() - {"auto"} == set(names)
        assert flag == "--preset" or all(len(about) > 2 for about in shown.values())


def test_help_comes_also_with_a_mistake_before_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--agent", "nonsense", "--help"])
    assert stop.value.code == 0
    assert "--agent STR" in capsys.readouterr().out


DEFAULT: list[str] = []
BITS = ["--env", "gfn/BitSequence-v0", "--env-kwargs", '{"n": 8, "k": 2, "modes": 3}']
EFFECTS: dict[str, tuple[list[str], str | bool | None]] = {
    "agent": (DEFAULT, "softdqn"),
    "backward": (DEFAULT, "uniform"),
    "sampler": (DEFAULT, "local-search"),
    "network": (BITS, "mlp"),
    "env": (DEFAULT, "gfn/HypergridHard-v0"),
    "env_kwargs": (DEFAULT, '{"dim": 2, "side": 5}'),
    "trajectories": (DEFAULT, "40"),
    "batch_size": (DEFAULT, "5"),
    "seed": (DEFAULT, "1"),
    "eval_every": (DEFAULT, "3"),
    "eval.window": (DEFAULT, "10"),
    "eval.max_exact_edges": (DEFAULT, "0"),
    "eval.elbo_samples": (DEFAULT, "7"),
    "eval.slack_objects": ([*BITS, "--eval.max-exact-edges", "0"], "7"),
    "eval.test_every": (BITS, "0"),
    "eval.test_objects": (BITS, "9"),
    "eval.test_rollouts": (BITS, "3"),
    "epsilon": (DEFAULT, "0.9"),
    "epsilon_end": (["--epsilon", "0.9", "--epsilon-trajectories", "16"], "0.5"),
    "epsilon_trajectories": (["--epsilon", "0.9"], "8"),
    "learning_starts": (DEFAULT, "4"),
    "agent.lr": (DEFAULT, "0.1"),
    "agent.lr_decay": (DEFAULT, "0.5"),
    "agent.weight_decay": (DEFAULT, "0.5"),
    "agent.max_grad_norm": (DEFAULT, "1e-8"),
    "agent.alpha": (DEFAULT, "0.5"),
    "agent.l0": (DEFAULT, "-0.1"),
    "agent.on_policy": (DEFAULT, True),
    "agent.replay_capacity": (DEFAULT, "30"),
    "agent.replay_batch": (DEFAULT, "9"),
    "agent.priority_alpha": (DEFAULT, "0"),
    "agent.priority_beta": (DEFAULT, "0.7"),
    "agent.target_rate": (DEFAULT, "1"),
    "agent.target_every": (DEFAULT, "3"),
    "agent.leaf_weight": (DEFAULT, "9"),
    "agent.dueling": (DEFAULT, True),
    "agent.steps": (DEFAULT, "3"),
    "agent.log_z_from": (["--agent", "tb"], "batch"),
    "agent.log_z_lr": (["--agent", "tb"], "0.5"),
    "agent.penalty": (["--agent", "tb"], "huber"),
    "agent.lamda": (["--agent", "subtb"], "0.3"),
    "agent.gae_lambda": (["--agent", "pg"], "0.1"),
    "agent.value_weight": (["--agent", "pg"], "0.1"),
    "agent.epochs": (["--agent", "ent-ppo"], "2"),
    "agent.minibatches": (["--agent", "ent-ppo"], "1"),
    "agent.clip": (["--agent", "ent-ppo", "--agent.lr", "0.1"], "0.01"),
    "backward.learn_from": (["--sampler", "replay"], "all"),
    "sampler.copy_rate": (["--agent.lr", "0.1"], "0.01"),
    "sampler.share": (["--sampler", "replay"], "0.8"),
    "sampler.capacity": (["--sampler", "replay"], "2"),
    "sampler.top": (["--sampler", "replay"], "0.9"),
    "sampler.rounds": (["--sampler", "local-search"], "2"),
    "sampler.depth": (["--sampler", "local-search"], "0.2"),
    "sampler.accept": (["--sampler", "local-search"], "metropolis"),
    "sampler.chains": (["--sampler", "mcmc"], "16"),
    "sampler.alpha": (["--sampler", "teacher"], "0.5"),
    "sampler.under_weight": (["--sampler", "teacher"], "1"),
    "sampler.lr": (["--sampler", "teacher"], "0.1"),
    "sampler.weight_decay": (["--sampler", "teacher"], "0.5"),
    "sampler.max_grad_norm": (["--sampler", "teacher"], "1e-8"),
    "sampler.log_z_lr": (["--sampler", "teacher"], "0.5"),
    "sampler.epsilon": (["--sampler", "teacher"], "0.5"),
    "backward.lr": (DEFAULT, "0.1"),
    "backward.lr_decay": (DEFAULT, "0.5"),
    "backward.target_rate": (DEFAULT, "1"),
    "backward.zero_init": (DEFAULT, None),
    "backward.weight_decay": (DEFAULT, "0.5"),
    "backward.max_grad_norm": (DEFAULT, "1e-8"),
    "backward.past_batches": (["--backward", "pessimistic"], "2"),
    "backward.exact": (["--backward", "maxent"], None),
    "network.width": (DEFAULT, "16"),
    "network.layers": (DEFAULT, "1"),
    "network.shared_torso": (DEFAULT, None),
    "network.attention_heads": (BITS, "2"),
}
"""Setting -> the arguments that it needs, and a value: None for its --no-flag, True for a flag without value."""


def _outcome(folder: Path, *arguments: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the metrics and the weights that a short run ends with."""
    short = ["--env-kwargs", '{"dim": 2, "side": 4}', "--batch-size", "4", "--trajectories", "48"]
    short += ["--network.width", "8", "--learning-starts", "2", "--no-progress", "--overwrite", "--out", str(folder)]
    assert main([*short, *arguments]) == 0
    return untimed(metrics_of(folder)), {name: value.tolist() for name, value in state_of(folder)["network"].items()}


def test_every_setting_is_covered() -> None:
    assert set(EFFECTS) | {"device", "cuda_graphs", "threads", "preset", "metrics", "eval.samples"} == every_setting()


@pytest.mark.parametrize("name", EFFECTS)
def test_every_setting_has_an_effect(name: str, tmp_path: Path, no_pictures: None) -> None:
    needs, value = EFFECTS[name]
    flag = name.replace("_", "-")
    if value is None:
        *section, leaf = flag.split(".")
        given = ["--" + ".".join([*section, "no-" + leaf])]
    else:
        given = ["--" + flag] if value is True else ["--" + flag, str(value)]
    assert _outcome(tmp_path, *needs, *given) != _outcome(tmp_path, *needs)


def test_a_preset_gives_defaults_that_flags_replace() -> None:
    given = ["--env", "gfn/QM9-v0", "--preset", "paper"]
    plain, paper, own = (parse(args).config for args in (given[:2], given, [*given, "--network.layers", "5"]))
    sizes = [[config.flat()[f"network.{name}"] for name in ("layers", "width")] for config in (plain, paper, own)]
    assert sizes == [[3, 64], [8, 128], [5, 128]]
    assert parse(["--preset", "paper"]).config.differences(parse([]).config) == {"preset": ("paper", "default")}
    with pytest.raises(ValueError, match=r"Unknown preset 'papers'\. Known, closest first: paper, tuned, default"):
        parse(["--preset", "papers"])


def test_the_device_is_the_one_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [resolve_device(parse(["--device", name]).config.device).type for name in ("cpu", "cuda", "auto")] == [
        "cpu", "cuda", "cuda",
    ]  # fmt: skip
