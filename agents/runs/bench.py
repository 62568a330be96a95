"""Speed of training, rollouts and the vector environment: python -m agents.runs.bench [--env gfn/QM9-v0 gfn/SEH-v0].

It prints the median of some rounds. Compare ratios of runs made side by side on an idle machine, not single numbers.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import gymnasium
import numpy as np
import torch
import tyro

import gfn_envs
from agents.build import build_trainer
from agents.config import environment_arguments, usual, with_values
from agents.model import resolve_device
from agents.runs import command
from agents.sampling.rollout import rollout
from agents.settings import Bounds, Settings, check
from gfn_envs import memory
from gfn_envs.dag import DAG


@dataclass(frozen=True)
class Options(Settings):
    """Measure the speed of training, of random rollouts and of the vector environment."""

    seconds: Annotated[float, Bounds(0, 10**6)] = 5.0
    """Length of a round."""
    rounds: Annotated[int, Bounds(1, 10**6)] = 3
    """Rounds of each measurement; the median is printed."""
    threads: Annotated[int, Bounds(1, 1024)] = 1
    """CPU threads of torch."""
    device: str = "cpu"
    """Where the DAG and the networks live."""
    cuda_graphs: bool = False
    """Record iterations of training and replay them, where a run allows it."""
    env: tuple[str, ...] = ("gfn/Hypergrid-v0",)
    """Ids of the environments; all takes every registered one."""
    env_kwargs: str = "{}"
    """Keyword arguments of the environments as JSON, such as '{"dim": 2, "side": 8}'."""
    preset: str = "default"
    """Named defaults of the training: default, paper, or tuned."""
    batch_size: Annotated[tuple[int, ...], Bounds(0, 10**7)] = (0,)
    """Trajectories per iteration, one or several numbers; 0 takes the preset's."""
    parts: tuple[Literal["training", "rollouts", "vector"], ...] = ("training", "rollouts", "vector")
    """What to measure: training of the pairs, random rollouts, the vector environment."""
    pairs: tuple[str, ...] = ("db-naive", "db-tlm", "subtb-tlm", "tb-tlm", "mdqn-uniform", "mdqn-tlm")
    """Agents and backward policies to train, each as AGENT-BACKWARD."""
    warm_up: Annotated[int, Bounds(0, 10**9)] = 50
    """Iterations of training before the measurement."""

    def keywords(self) -> dict[str, Any]:
        """Return `env_kwargs` as a dictionary; raises the errors of `environment_arguments`."""
        return environment_arguments(self.env_kwargs)

    def envs(self) -> list[str]:
        """Return the ids of the environments."""
        return gfn_envs.registered() if self.env == ("all",) else list(self.env)

    def dag(self, env: str) -> DAG:
        """Return an environment."""
        return gfn_envs.make(env, device=resolve_device(self.device), **self.keywords())


def per_second(work: Callable[[], float], options: Options) -> list[float]:
    """Return the units of work per second in each round; `work` returns how many units it did."""
    rates = []
    for _ in range(options.rounds):
        start, done = time.perf_counter(), 0.0
        while time.perf_counter() - start < options.seconds:
            done += work()
        if options.device == "cuda":
            torch.cuda.synchronize()
        rates.append(done / (time.perf_counter() - start))
    return rates


def training(env: str, agent: str, backward: str, batch_size: int, options: Options) -> None:
    """Print iterations and trajectories per second of one pair with a fresh network, and CPU time per visited state."""
    values: dict[str, Any] = {
        "eval.max_exact_edges": 0,
        "eval.elbo_samples": 0,
        "eval.slack_objects": 0,
        "device": options.device,
        "env_kwargs": options.env_kwargs,
        "learning_starts": 0,
        "cuda_graphs": options.cuda_graphs,
    }
    if batch_size:
        values["batch_size"] = batch_size
    settings = with_values(usual(env, agent, backward, preset=options.preset), values)
    trainer = build_trainer(settings, options.dag(env))
    for _ in range(options.warm_up):
        trainer.step()
    steps, iterations = trainer.buffer.newest.mask.sum() * 0, 0
    started = time.process_time()

    def iteration() -> float:
        nonlocal steps, iterations
        trainer.step()
        steps, iterations = steps + trainer.buffer.newest.mask.sum(), iterations + 1
        return 1.0

    rate = statistics.median(per_second(iteration, options))
    trajectories = iterations * settings.batch_size
    length = float(steps) / trajectories
    milliseconds = 1e3 * (time.process_time() - started) / (trajectories * (length + 1))
    rates = f"{rate:8.2f} iterations/s of {settings.batch_size}, {rate * settings.batch_size:,.0f} trajectories/s"
    print(
        f"{agent + ' ' + backward:16} {rates}, {milliseconds:.3f} CPU ms a state, mean length {length:.1f}", flush=True
    )


def random_rollouts(env: str, num_envs: int, options: Options) -> None:
    """Print useful steps of the uniformly random policy per second, and per second of CPU time."""
    dag = options.dag(env)
    logits = torch.zeros(1, dag.num_actions, device=dag.device)
    generator = torch.Generator(dag.device).manual_seed(0)

    done = 0.0

    def walk() -> float:
        nonlocal done
        steps = float(rollout(dag, lambda states: logits, dag.reset(num_envs), generator).lengths.sum())
        done += steps
        return steps

    started = time.process_time()
    rate = statistics.median(per_second(walk, options))
    of_cpu = done / (time.process_time() - started)
    print(f"random rollouts, {num_envs:6} environments: {rate:12,.0f} steps/s, {of_cpu:12,.0f} a second of CPU time")


def vector_environment(env: str, num_envs: int, options: Options) -> None:
    """Print steps per second of the native vector environment, and its ratio to the synchronous one."""
    rates = {}
    for mode in ("vector_entry_point", "sync"):
        envs = gymnasium.make_vec(env, num_envs=num_envs, vectorization_mode=mode, **options.keywords())
        _, info = envs.reset(seed=0)
        rng = np.random.default_rng(0)

        def step(envs: gymnasium.vector.VectorEnv = envs, rng: np.random.Generator = rng) -> float:
            nonlocal info
            legal = np.asarray(info["action_mask"], dtype=bool)
            noise = np.where(legal, rng.random(legal.shape, dtype=np.float32), -1.0)
            _, _, _, _, info = envs.step(noise.argmax(1))
            return num_envs

        rates[mode] = statistics.median(per_second(step, options))
        envs.close()
    native, sync = rates["vector_entry_point"], rates["sync"]
    print(f"vector environment, {num_envs} environments: {native:,.0f} steps/s, {native / sync:.1f} times the sync one")


def bench(options: Options) -> None:
    """Run all measurements; `ValueError` for wrong options."""
    check(options, Options())
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    envs = options.envs()
    for env in envs:
        if len(envs) > 1:
            print(f"{env}:", flush=True)
        for batch_size in options.batch_size if "training" in options.parts else ():
            for pair in options.pairs:
                agent, _, backward = pair.rpartition("-")
                try:
                    training(env, agent, backward, batch_size, options)
                except Exception as error:
                    if not memory.is_exhausted(error):
                        raise
                    print(f"{agent + ' ' + backward:16} does not fit into memory with --batch-size {batch_size}")
        for num_envs in (16, 1024, 4096, 16_384) if "rollouts" in options.parts else ():
            random_rollouts(env, num_envs, options)
        if "vector" in options.parts:
            vector_environment(env, 1024, options)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, or 2 for wrong input."""
    with command.cause_last():
        options = tyro.cli(Options, args=argv, prog="python -m agents.runs.bench")
    return command.told(lambda: bench(options))


if __name__ == "__main__":
    sys.exit(main())
