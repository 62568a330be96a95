"""A recorded iteration: without a GPU, a stand-in for the graph shows that replays are told apart and counted."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from padding import padding_stays
from pairs import built, config

from agents import build
from agents.config import Config, with_values
from agents.recording import Recording
from agents.sampling.buffer import Keeps


class Again:
    """Stands in for a graph: does the work again, into the tensors of the first time."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        recording._made = self.made = recording._work()

    def replay(self) -> None:
        (collected, told), (again, told_again) = self.made, self.recording._work()
        for name, tensor in collected.batch.all.tensors().items():
            tensor.copy_(again.batch.all.tensors()[name])
        for name, value in told.items():
            value.copy_(told_again[name])


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Record on the CPU, by `Again`; its draws while it records are undone, as a graph draws nothing then."""
    padding_stays(monkeypatch)

    def record(recording: Recording) -> Any:
        (generator,) = recording._generators
        state = generator.get_state()
        graph = Again(recording)
        generator.set_state(state)
        return graph

    monkeypatch.setattr(Recording, "_record", record)
    monkeypatch.setattr(Recording, "_run_aside", lambda recording: recording._work())
    monkeypatch.setattr(build, "_check_recordable", lambda *args: None)


def still(agent: str, **values: Any) -> Config:
    """Return the settings of a run that learns nothing, so that only what is sampled shows what was done."""
    given = {"agent.lr": 0.0, "env_kwargs": '{"dim": 2, "side": 16}', "learning_starts": 2, **values}
    return config(agent, "uniform", **given)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("agent", ["vargrad", "db"])
def test_replays_are_counted_and_kept_apart(agent: str) -> None:
    plain = still(agent, epsilon=1.0, epsilon_end=0.1, epsilon_trajectories=16 * 8)
    eager, recorded = built(plain), built(with_values(plain, {"cuda_graphs": True}))
    for _ in range(10):
        eager.step()
        recorded.step()
        for name, tensor in eager.buffer.newest.tensors().items():
            assert torch.equal(recorded.buffer.newest.tensors()[name], tensor), name
    assert recorded.reward_calls == eager.reward_calls == 160
    assert recorded._means.read() == pytest.approx(eager._means.read())
    for one, other in zip(recorded.evaluator._pending, eager.evaluator._pending, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


REFUSED = {
    "--device cuda": ("cpu", {}),
    "take on-policy": ("cuda", {"sampler": "replay"}),
    "take --agent.on-policy": ("cuda", {"agent": "mdqn"}),
    "learns from old batches": ("cuda", {"backward": "pessimistic"}),
}


@pytest.mark.parametrize(("told", "device", "values"), [(told, *case) for told, case in REFUSED.items()])
def test_what_cannot_be_recorded_is_refused(told: str, device: str, values: dict[str, Any]) -> None:
    settings = config(**values)
    trainer = built(settings)
    trainer.dag.device = torch.device(device)
    keeps = Keeps.all_of(trainer.agent.keeps, trainer.backward.keeps)
    with pytest.raises(ValueError, match=re.escape(told)):
        build._check_recordable(settings, trainer.dag, keeps)
