"""Speed of training, rollouts and the vector environment: python -m agents.bench.

Prints the median of some rounds. Compare ratios of runs made side by side on an idle machine, not single figures.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import gymnasium
import numpy as np
import torch
import tyro

import gfn_envs
from agents.build import build_trainer
from agents.config import preset, with_values
from agents.rollout import rollout

PAIRS = (("db", "naive"), ("db", "tlm"), ("subtb", "tlm"), ("tb", "tlm"), ("mdqn", "uniform"), ("mdqn", "tlm"))


@dataclass
class Options:
    """Measure speed on the paper's hypergrid, 4 x 20."""

    seconds: float = 5.0
    """Length of a round."""
    rounds: int = 3
    """Rounds of each measurement; the median is printed."""
    threads: int = 1
    """CPU threads of torch."""
    device: str = "cpu"
    """Where the DAG and the networks live."""
    env: str = "gfn/Hypergrid-v0"
    """Id of the environment."""


def per_second(work: Callable[[], float], options: Options) -> list[float]:
    """Return the units of work done a second in each round; `work` returns how many it did."""
    rates = []
    for _ in range(options.rounds):
        start, done = time.perf_counter(), 0.0
        while time.perf_counter() - start < options.seconds:
            done += work()
        if options.device == "cuda":
            torch.cuda.synchronize()
        rates.append(done / (time.perf_counter() - start))
    return rates


def training(agent: str, backward: str, options: Options) -> None:
    """Print iterations a second of one pair, 16 trajectories an iteration, from a fresh network."""
    values = {
        "backward": backward,
        "eval.max_exact_edges": 0,
        "eval.elbo_samples": 0,
        "device": options.device,
        "learning_starts": 0,
    }
    trainer = build_trainer(
        with_values(preset(options.env, agent), values), gfn_envs.make(options.env, device=options.device)
    )
    for _ in range(50):
        trainer.step()
    trainer.evaluator.evaluate(trainer.agent)

    def iteration() -> float:
        trainer.step()
        return 1.0

    rates = per_second(iteration, options)
    length = trainer.evaluator.evaluate(trainer.agent)["mean_length"]
    print(
        f"{agent + ' ' + backward:16} {statistics.median(rates):10.1f} iterations/s, mean length {length:.1f}",
        flush=True,
    )


def random_rollouts(num_envs: int, options: Options) -> None:
    """Print useful steps a second of the uniformly random policy."""
    dag = gfn_envs.make(options.env, device=options.device)
    logits = torch.zeros(1, dag.num_actions, device=dag.device)
    generator = torch.Generator(dag.device).manual_seed(0)

    def walk() -> float:
        return float(rollout(dag, lambda states: logits, dag.reset(num_envs), generator).lengths.sum())

    print(f"random rollouts, {num_envs:6} environments: {statistics.median(per_second(walk, options)):12,.0f} steps/s")


def vector_environment(num_envs: int, options: Options) -> None:
    """Print steps a second of the native vector environment and its ratio to the synchronous one."""
    rates = {}
    for mode in ("vector_entry_point", "sync"):
        envs = gymnasium.make_vec(options.env, num_envs=num_envs, vectorization_mode=mode)
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


def main(options: Options) -> None:
    """Run all measurements."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    for agent, backward in PAIRS:
        training(agent, backward, options)
    for num_envs in (16, 1024, 16_384):
        random_rollouts(num_envs, options)
    vector_environment(1024, options)


if __name__ == "__main__":
    main(tyro.cli(Options))
