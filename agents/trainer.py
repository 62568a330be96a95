"""The training loop: collect trajectories, update the sampler, P_B and P_F, evaluate, checkpoint.

Source: Gritsaev et al. 2025 (arXiv 2410.15474), Algorithm 1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from tqdm import tqdm

from agents import distributed, policy
from agents.config import Config
from agents.evaluation.evaluator import Evaluator
from agents.evaluation.gflownet import GFlowNet
from agents.evaluation.metric import Column, leading, run_columns
from agents.model import Model
from agents.recording import Recording
from agents.sampling.buffer import Batch, RolloutBuffer
from agents.sampling.categorical import host_is_free
from agents.sampling.random_state import get_state, make_generator, set_state
from agents.sampling.rollout import Trajectories
from agents.sampling.samplers import Collected, Sampler
from gfn_envs.dag import log_rewards_or_error

CHECK_EVERY = 100
"""Iterations between two checks of the losses (and of the rewards, if not on the CPU): a check waits for the device."""


class Means:
    """Means of named scalar tensors, accumulated without waiting for the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add one value to the mean of each name in `values`."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.double()
            self._counts[name] = self._counts.get(name, 0) + 1

    def read(self) -> dict[str, float]:
        """Return the means by name; this waits for the device."""
        return {name: float(total) / self._counts[name] for name, total in self._sums.items()}

    def clear(self) -> None:
        """Forget all values."""
        self._sums.clear()
        self._counts.clear()

    def state_dict(self) -> dict:
        """Return the sums and counts."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: dict, device: torch.device) -> None:
        """Restore what `state_dict` returned."""
        self._sums = {name: total.to(device) for name, total in state["sums"].items()}
        self._counts = dict(state["counts"])


class Trainer:
    """Trains one agent and one backward policy on one DAG, whichever they are.

    `history` holds one dictionary of metrics per evaluation.
    """

    def __init__(
        self, config: Config, model: Model, sampler: Sampler, buffer: RolloutBuffer, evaluator: Evaluator
    ) -> None:
        self.config, self.model, self.sampler = config, model, sampler
        self.buffer, self.evaluator = buffer, evaluator
        self.dag, self.network, self.targets = model.parts.dag, model.parts.network, model.parts.targets
        self.agent, self.backward = model.agent, model.backward
        self.generator = make_generator(self.dag.device, distributed.own_seed(config.seed))
        self._epsilon = torch.zeros((), device=self.dag.device)
        self._recording = Recording(self._work, [self.generator] if self.generator else [])
        self.iteration = self.reward_calls = 0
        self.seconds = self._seconds_at_evaluation = 0.0
        self._iteration_at_evaluation = 0
        self._means = Means()
        self.history: list[dict[str, float]] = []

    @property
    def trajectories(self) -> int:
        """Number of trajectories sampled so far, by all processes."""
        return self.iteration * self.config.batch_size

    @property
    def num_iterations(self) -> int:
        """Number of iterations in the whole run."""
        return -(-self.config.trajectories // self.config.batch_size)

    def epsilon(self) -> float:
        """Return the current probability of a random action."""
        config = self.config
        if config.epsilon_trajectories == 0:
            return config.epsilon
        done = min(1.0, self.trajectories / config.epsilon_trajectories)
        return config.epsilon + done * (config.epsilon_end - config.epsilon)

    def collect(self) -> Batch:
        """Obtain the trajectories of an iteration, put them into the buffer, and return them."""
        return self._counted(self._obtain(self.epsilon()))

    def _obtain(self, epsilon: float | Tensor) -> Collected:
        """Do so, with random actions of probability `epsilon`, but count no rewards."""
        collected = self.sampler.collect(self.agent, epsilon, self.generator)
        self.buffer.add(collected.batch)
        return collected

    def _counted(self, collected: Collected) -> Batch:
        """Count the rewards that were asked for, and return the batch."""
        self.reward_calls += collected.reward_calls * distributed.size()
        return collected.batch

    def _learn(self) -> dict[str, Tensor]:
        """Take the learning steps of an iteration, and return what they tell."""
        taught = self.sampler.update(self.agent, self.buffer)
        told = self.backward.update(self.buffer)
        return {**self.agent.update(self.buffer), **told, **taught}

    def _work(self) -> tuple[Collected, dict[str, Tensor]]:
        """Do what of an iteration is recorded."""
        return self._obtain(self._epsilon), self._learn()

    def _replay(self) -> tuple[Batch, dict[str, Tensor]]:
        """Do an iteration from the record, or while it is made."""
        self._epsilon.fill_(self.epsilon())
        recorded, told = self._recording()
        batch = Batch.of(self._counted(recorded).all.copy())
        self.buffer.add(batch)
        return batch, told

    def step(self) -> None:
        """Do one iteration."""
        learns, told = self.iteration >= self.config.learning_starts, {}
        if learns and self.config.cuda_graphs:
            batch, told = self._replay()
        else:
            batch = self.collect()
            if host_is_free(self.dag.device):
                self._check_rewards(batch.all)
            if learns:
                told = self._learn()
            else:
                self.agent.observe(self.buffer)
        self.evaluator.add(batch.fresh)
        if learns:
            self._means.add(told)
            self.targets.update()
        self.iteration += 1
        if host_is_free(self.dag.device):
            self._check_losses()

    def train(
        self, on_evaluation: Callable[[dict[str, float]], None], stop: Callable[[], bool], progress: bool = True
    ) -> bool:
        """Iterate to the end, or until `stop()` is true between two iterations; return whether the end was reached.

        `on_evaluation` receives the metrics of each evaluation after they are added to `history`.
        """
        bar = tqdm(
            total=self.config.trajectories,
            initial=self.trajectories,
            unit="traj",
            disable=not progress,
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{remaining} left, {rate_fmt}{postfix}]",
        )
        with bar:
            started = time.perf_counter()
            while self.iteration < self.num_iterations:
                if distributed.any_of(stop()):
                    self._check()
                    self.seconds += time.perf_counter() - started
                    return False
                self.step()
                last = self.iteration == self.num_iterations
                evaluates = last or self.iteration % self.config.eval_every == 0
                if evaluates or self.iteration % CHECK_EVERY == 0:
                    self._check()
                    self.evaluator.flush()
                    bar.n = min(self.trajectories, self.config.trajectories)
                    bar.set_postfix(self._postfix(), refresh=False)
                    bar.refresh()
                if evaluates:
                    self.seconds += time.perf_counter() - started
                    on_evaluation(self.evaluate())
                    started = time.perf_counter()
        return True

    def evaluate(self) -> dict[str, float]:
        """Measure the agent, append the metrics to `history` and return them."""
        told = self._means.read()
        self._means.clear()
        seconds = self.seconds - self._seconds_at_evaluation
        iterations = self.iteration - self._iteration_at_evaluation
        self._seconds_at_evaluation, self._iteration_at_evaluation = self.seconds, self.iteration
        metrics = {
            "trajectories": self.trajectories,
            "reward_calls": self.reward_calls,
            "seconds": self.seconds,
            "iterations_per_second": iterations / seconds if seconds > 0 else 0.0,
            **distributed.mean_figures(told),
            **self.evaluator.evaluate(self.agent, last=self.iteration == self.num_iterations),
        }
        self.history.append(metrics)
        return metrics

    def _postfix(self) -> dict[str, str]:
        """Return what the progress line shows: the loss, and the leading metric of the latest evaluation."""
        shown = {name: f"{value:.3g}" for name, value in self._means.read().items() if name == "loss"}
        if self.history and (name := leading(self.history[-1], self.columns())):
            column = self.columns()[name]
            shown[column.heading] = column.form.format(self.history[-1][name])
        return shown

    def _check(self) -> None:
        """Raise an error before a NaN reaches a checkpoint."""
        if self.buffer.batches:
            self._check_rewards(self.buffer.newest)
        self._check_losses()

    def _check_losses(self) -> None:
        bad = [name for name, value in self._means.read().items() if not math.isfinite(value)]
        if bad:
            raise FloatingPointError(
                f"{bad[0]} is no longer finite after {self.trajectories:,} trajectories: lower --agent.lr, "
                "--backward.lr or a teacher's --sampler.lr, or set --agent.max-grad-norm. An earlier checkpoint is "
                "untouched."
            )

    def _check_rewards(self, batch: Trajectories) -> None:
        if not bool(batch.log_reward.isfinite().all()):
            log_rewards_or_error(self.dag, batch.terminal_states)

    def gflownet(self) -> GFlowNet:
        """Return the policy that is measured: the agent itself."""
        return self.agent

    def columns(self) -> dict[str, Column]:
        """Return how each metric of `history` is shown, by name; a metric that is missing here has a usual column."""
        return run_columns(self.evaluator.columns())

    def attachments(self) -> dict[str, bytes]:
        """Return further files to save with a checkpoint, by name: the policy alone, which is enough to use it."""
        return {policy.FILE: policy.to_bytes(self.config, self.model, self.trajectories)}

    def state_dict(self) -> dict:
        """Return everything on which the rest of the run depends, as tensors, numbers, lists and dictionaries.

        What the other processes hold for themselves is in `others`. All processes must call this.
        """
        evaluator = self.evaluator.state_dict()
        own = {
            "sampler": self.sampler.state_dict(),
            "buffer": self.buffer.state_dict(),
            "generator": get_state(self.generator),
            "means": self._means.state_dict(),
        }
        others = distributed.gathered_objects({**own, "pending": evaluator["pending"]})[1:]
        return {
            "network": self.network.state_dict(),
            "targets": self.targets.state_dict(),
            "agent": self.agent.state_dict(),
            "backward": self.backward.state_dict(),
            "evaluator": evaluator,
            **own,
            **({"others": others} if others else {}),
            "iteration": self.iteration,
            "reward_calls": self.reward_calls,
            "seconds": [self.seconds, self._seconds_at_evaluation],
            "iteration_at_evaluation": self._iteration_at_evaluation,
            "history": self.history,
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned; `ValueError` if another number of processes made it."""
        others, rank = state.get("others", []), distributed.rank()
        if len(others) + 1 != distributed.size():
            raise ValueError(f"it is of {len(others) + 1} processes, and here are {distributed.size()}")
        for part in ("network", "targets", "agent", "backward"):
            getattr(self, part).load_state_dict(state[part])
        own = others[rank - 1] if rank else state
        self.sampler.load_state_dict(own["sampler"])
        self.buffer.load_state_dict(own["buffer"])
        set_state(self.generator, own["generator"])
        self._means.load_state_dict(own["means"], self.dag.device)
        pending = {"pending": own["pending"]} if rank else {}
        self.evaluator.load_state_dict({**state["evaluator"], **pending})
        self.iteration, self.history = state["iteration"], list(state["history"])
        self.reward_calls = state["reward_calls"]
        self.seconds, self._seconds_at_evaluation = state["seconds"]
        self._iteration_at_evaluation = state["iteration_at_evaluation"]
