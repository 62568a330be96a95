"""Search for good settings of one method on one environment, with Optuna: python agents/tune.py --env ID.

Source: Akiba et al. 2019, "Optuna: A Next-generation Hyperparameter Optimization Framework" (arXiv 1907.10902).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import tyro
from tqdm import tqdm

from agents.build import build_trainer
from agents.config import CHOICES, Config, check_config, json_object, usual
from agents.model import make_dag
from agents.runs import command
from agents.runs.engines import Engine, EngineOptions, stoppable
from agents.runs.folder import write_atomically
from agents.runs.kinds import Task
from agents.runs.loggers import require
from agents.runs.report import as_csv
from agents.runs.suite import log_file
from agents.settings import Bounds, field_types

if TYPE_CHECKING:
    from optuna import Study, Trial

HELP = """Search for settings with which an agent learns well on an environment, by Optuna.

The first trial has the usual settings. A trial that is behind at one of its evaluations is stopped. What is searched,
and where, --space says as JSON: two numbers are a range, and anything longer, or of words, a list of choices. Rates are
searched on a logarithmic scale. Without --space these are the learning rates, from a tenth to ten times the usual one.

  python agents/tune.py --agent tb --backward tlm --env gfn/Bag-v0 --trials 30 --out runs/tune-bag
  python agents/tune.py --space '{{"agent.lr": [1e-4, 1e-2], "batch_size": [16, 32, 64]}}' --out runs/tune-grid

The same command goes on with a search, and may run several times at once. DIR gets:
  best.json    the settings of the best trial: python agents/run.py --config DIR/best.json --seed 1
  tuned.py     a preset of them: python agents/run.py --preset tuned:tuned, with a copy in the current folder
  trials.csv   all trials"""

FACTOR = 10.0
"""How far a rate may go from the usual one, without `--space`."""
STUDY, JOURNAL = "tune", "journal.log"


@dataclass(frozen=True)
class Options(EngineOptions):
    """What to search, and where."""

    env: str = Config.env
    """Id of the environment."""
    env_kwargs: str = "{}"
    """Keyword arguments of the environment as JSON."""
    agent: str = Config.agent
    """Agent."""
    backward: str = Config.backward
    """Backward policy."""
    sampler: str = Config.sampler
    """Sampler."""
    network: str = "auto"
    """Network."""
    preset: str = Config.preset
    """Named defaults, from which the search starts."""
    settings: str = "{}"
    """Settings that all trials share, by dotted name as JSON."""
    space: str = "{}"
    """Settings to search, by dotted name as JSON."""
    metric: str = "total_variation_exact"
    """Figure to make small, by its name in metrics.jsonl."""
    maximize: command.FLAG = False
    """Make the figure large instead."""
    trials: int = 30
    """Trials in all."""
    trajectories: int = 16_000
    """Trajectories of each run."""
    evaluations: int = 8
    """Evaluations of each run."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of each trial; its figure is the mean over them."""
    out: Annotated[str, tyro.conf.arg(metavar="DIR")] = "runs/tune"
    """Folder of the search."""
    progress: command.FLAG = True
    """Show no progress bar."""

    def fixed(self) -> dict[str, Any]:
        """Return what may not change when a search goes on."""
        free = {"trials", "out", "progress", *(field.name for field in dataclasses.fields(EngineOptions))}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items() if k not in free}


def base(options: Options) -> Config:
    """Return the settings from which the search starts; `ValueError` for a wrong name or value."""
    if options.trials < 1:
        raise ValueError(f"--trials must be at least 1, got {options.trials}.")
    if not options.seeds:
        raise ValueError("--seeds must name a seed.")
    return configured(options, {}, options.seeds[0])


def configured(options: Options, values: Mapping[str, Any], seed: int) -> Config:
    """Return the settings of a run with these values by dotted name; `ValueError` for a wrong name or value."""
    task = Task(
        **{name: getattr(options, name) for name in ("env", "env_kwargs", "preset", "trajectories", "evaluations")},
        metrics=(),
        seed=seed,
        device="auto",
        settings={**json_object("--settings", options.settings), **values},
    )
    config = usual(options.env, options.agent, options.backward, options.network, options.preset, options.sampler)
    config = task.applied(config, lambda config: config.batch_size)
    check_config(config)
    return config


Place = list[Any]
"""What a setting may be: `[low, high]` of a range, or a list of choices."""


def space(options: Options, config: Config) -> dict[str, Place]:
    """Return the settings to search by dotted name; `ValueError` for an unknown one, or one out of its bounds."""
    flat = config.flat()
    given = json_object("--space", options.space)
    if not given:
        rates = {name: flat[name] for name in flat if name.endswith(("lr", "log_z_rate")) and flat[name] > 0}
        return {name: _within(config, name, rate) for name, rate in rates.items()}
    for name, place in given.items():
        if not (isinstance(place, list) and len(place) > 1):
            raise ValueError(f"--space: {name} needs two ends of a range or a list of choices, got {place!r}.")
        for value in place:
            configured(options, {name: value}, options.seeds[0])  # tells an unknown name and a value out of bounds
        if _is_range(place) and not place[0] < place[1]:
            raise ValueError(f"--space: the range of {name} must rise, got {place!r}.")
    return given


def _within(config: Config, name: str, value: float) -> Place:
    section, _, leaf = name.partition(".")
    group = getattr(config, f"{section}_settings", getattr(config, section, config))
    bounds = [each for each in getattr(field_types(type(group))[leaf], "__metadata__", ()) if isinstance(each, Bounds)]
    low, high = (bounds[0].low, bounds[0].high) if bounds else (0.0, math.inf)
    return [max(value / FACTOR, low), min(value * FACTOR, high)]


def _is_range(place: Place) -> bool:
    return len(place) == 2 and all(type(value) in (int, float) for value in place)


def _holds(place: Place, value: Any) -> bool:
    return place[0] <= value <= place[1] if _is_range(place) else value in place


def suggested(trial: Trial, places: Mapping[str, Place]) -> dict[str, Any]:
    """Return the values that Optuna wants to try."""
    values: dict[str, Any] = {}
    for name, place in places.items():
        if not _is_range(place):
            values[name] = trial.suggest_categorical(name, place)
        elif all(isinstance(end, int) for end in place):
            values[name] = trial.suggest_int(name, *place, log=place[0] > 0)
        else:
            values[name] = trial.suggest_float(name, *place, log=place[0] > 0)
    return values


def judged(trial: Trial, options: Options) -> float:
    """Train with what Optuna suggests and return the figure; a trial that is behind, or diverges, is pruned."""
    from optuna import TrialPruned

    values = suggested(trial, space(options, base(options)))
    steps, last = itertools.count(1), list[float]()

    def on_evaluation(metrics: dict[str, float]) -> None:
        if options.metric not in metrics:
            raise ValueError(f"--metric {options.metric} is not measured; there are {', '.join(metrics)}.")
        trial.report(metrics[options.metric], next(steps))
        if trial.should_prune():
            raise TrialPruned

    for seed in options.seeds:
        config = configured(options, values, seed)
        trainer = build_trainer(config, make_dag(config))
        try:
            trainer.train(on_evaluation, lambda: False, progress=False)
        except FloatingPointError:  # it diverges
            raise TrialPruned from None
        last.append(trainer.history[-1][options.metric])
    return sum(last) / len(last)


def open_study(options: Options, worker: int = 0) -> Study:
    """Return the search of a folder, a new one if there is none; workers draw from different streams."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        study_name=STUDY,
        storage=JournalStorage(JournalFileBackend(str(Path(options.out) / JOURNAL))),
        sampler=optuna.samplers.TPESampler(seed=worker),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1),
        direction="maximize" if options.maximize else "minimize",
        load_if_exists=True,
    )


def work(options: Options, worker: int) -> int:
    """Do trials until there are as many as wanted, beside other workers; return an exit code."""
    from optuna.study import MaxTrialsCallback
    from optuna.trial import TrialState

    torch.set_num_threads(1)
    study = open_study(options, worker)
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    if len(study.get_trials(deepcopy=False, states=ended)) < options.trials:
        enough = MaxTrialsCallback(options.trials, states=ended)
        return command.told(lambda: study.optimize(partial(judged, options=options), callbacks=[enough]))
    return 0


def tune(options: Options) -> int:
    """Search; return the exit code: 0, 1 if a worker failed, 130 after Ctrl-C."""
    require("optuna", "agents/tune.py", "tune")
    out = Path(options.out)
    config = base(options)
    places = space(options, config)
    engine = options.open_engine()
    _begin(out, options)
    study = open_study(options)
    if not study.get_trials(deepcopy=False):
        flat = config.flat()
        study.enqueue_trial({name: flat[name] for name, place in places.items() if _holds(place, flat[name])})
    if code := stoppable(engine, lambda: _search(engine, options, study)):
        return code
    report(options, study, config)
    return 0


def _search(engine: Engine, options: Options, study: Study) -> int:
    """Let workers do the trials, and show how far they are; return 1 if a worker failed, otherwise 0."""
    out = Path(options.out)
    elsewhere = dataclasses.replace(options, out=str(out.resolve()))
    codes: dict[Path, int] = {}
    with tqdm(total=options.trials, unit="trial", disable=not options.progress) as bar:
        for worker in range(options.jobs or 1):
            engine.start(out / f"worker-{worker}", partial(work, elsewhere, worker))
        while engine.running():
            time.sleep(0.5)
            codes |= engine.ended()
            _show(bar, study)
    failed = [folder for folder, code in codes.items() if code]
    if failed:
        lines = log_file(failed[0]).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        print(f"a worker failed: {''.join(lines[-1:])}", file=sys.stderr)
    return int(bool(failed))


def _begin(out: Path, options: Options) -> None:
    """Write what is searched into the folder; `ValueError` if it holds another search."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "tune.json"
    if not file.exists():
        write_atomically(file, (json.dumps(options.fixed(), indent=2) + "\n").encode())
        return
    there = json.loads(file.read_text(encoding="utf-8"))
    if other := [name for name, value in options.fixed().items() if there.get(name) != value]:
        flags = ", ".join("--" + name.replace("_", "-") for name in other)
        raise ValueError(f"{out} holds a search with other {flags}: name another --out.")


def _ended(study: Study) -> list[Any]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def _show(bar: tqdm, study: Study) -> None:
    trials = _ended(study)
    bar.n = len(trials)
    complete = any(trial.value is not None for trial in trials)
    bar.set_postfix_str(f"best {study.best_value:.4g}" if complete else "", refresh=True)


def report(options: Options, study: Study, config: Config) -> None:
    """Write the best settings, the preset and the table of trials, and print what was found."""
    out = Path(options.out)
    trials = _ended(study)
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    rows = [["trial", "state", options.metric, "seconds", *names]]
    for trial in trials:
        seconds = round(trial.duration.total_seconds(), 1) if trial.duration else ""
        rows.append([trial.number, trial.state.name, trial.value, seconds, *(trial.params.get(n) for n in names)])
    write_atomically(out / "trials.csv", as_csv(rows).encode())
    best = study.best_trial
    found = configured(options, best.params, options.seeds[0])
    write_atomically(out / "best.json", (found.to_json() + "\n").encode())
    write_atomically(out / "tuned.py", preset(options, best.params).encode())
    flat = config.flat()
    usual_ones = [trial for trial in trials if all(flat[name] == value for name, value in trial.params.items())]
    before = f"; with the usual settings {usual_ones[0].value}" if usual_ones else ""
    print(f"{len(trials)} trials; {options.metric} {best.value:.6g} in trial {best.number}{before}")
    print("\n".join(f"  {name} = {value}" for name, value in best.params.items()))
    print(f"python agents/run.py --config {out / 'best.json'} --seed 1")


def preset(options: Options, values: Mapping[str, Any]) -> str:
    """Return a module that registers a preset with these values for the choices of the options."""
    chosen = {kind: getattr(options, kind).rpartition(":")[2] for kind in CHOICES if kind != "network"}
    return f'''"""Settings for {options.agent} + {options.backward} on {options.env}, found by agents/tune.py."""

from agents import register_preset


def tuned(choice):
    """Return settings by dotted name for the choices that were tuned, and none for others."""
    if any(getattr(choice, kind) != name for kind, name in {chosen!r}.items()):
        return {{}}
    return {dict(values)!r}


register_preset("tuned", f"{{__name__}}:tuned", env={options.env.rpartition(":")[2]!r})
'''


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 1 (a worker failed), 2 (wrong input), 130 (stopped)."""
    arguments = sys.argv[1:] if argv is None else argv
    with command.cause_last():
        options = tyro.cli(Options, args=arguments, prog="python agents/tune.py", description=HELP)
    with command.sigterm_as_ctrl_c():
        return command.told(lambda: tune(options))
