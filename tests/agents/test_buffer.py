"""The buffer hands out the newest and the past batches, and prioritised transitions from a ring."""

import io
import math
from collections import Counter

import pytest
import torch
from toy_dags import Bag
from true_flows import SMALL, sample

from agents.sampling import rollout as module
from agents.sampling.buffer import Batch, Keeps, RolloutBuffer, Transitions
from agents.sampling.rollout import Trajectories
from gfn_envs import Hypergrid

DAG = Hypergrid(dim=2, side=4)


def _numbered(numbers: torch.Tensor) -> Transitions:
    """Return transitions that carry their number in every field."""
    n = len(numbers)
    return Transitions(
        states=numbers[:, None].expand(n, DAG.state_dim),
        actions=numbers,
        next_states=-numbers[:, None].expand(n, DAG.state_dim),
        backward_actions=numbers + 1,
        log_reward=numbers.float(),
        done=numbers % 2 == 0,
    )


def _kept(buffer: RolloutBuffer) -> Counter:
    return Counter(buffer.ring["actions"][: buffer.filled].tolist())


@pytest.mark.parametrize("sizes", [[3, 3, 3, 3], [7], [4, 9, 2], [7, 7], [20], [1] * 15, [0, 5, 0, 4]])
def test_the_ring_keeps_exactly_the_latest_transitions(sizes: list[int]) -> None:
    capacity, buffer, at = 7, RolloutBuffer(DAG, Keeps(transitions=7)), 0
    for size in sizes:
        numbers = torch.arange(at, at + size)
        buffer.add_transitions(_numbered(numbers), numbers + 1.0)
        at += size
        latest = torch.arange(max(0, at - capacity), at)
        assert _kept(buffer) == Counter(latest.tolist())
        priorities = buffer.priorities[: buffer.filled]
        assert torch.equal(priorities, buffer.ring["actions"][: buffer.filled] + 1.0)
        assert torch.equal(buffer.ring["next_states"], -buffer.ring["states"])
    drawn, slots, _ = buffer.sample_transitions(200)
    for name, field in drawn.tensors().items():
        assert torch.equal(field, _numbered(drawn.actions).tensors()[name]), name
    assert torch.equal(buffer.ring["actions"][slots], drawn.actions)


def test_transitions_are_drawn_in_proportion_to_their_priorities() -> None:
    buffer = RolloutBuffer(DAG, Keeps(transitions=50))
    priorities = torch.tensor([0.0, 1.0, 2.0, 5.0, 0.0, 0.5])
    buffer.add_transitions(_numbered(torch.arange(6)), priorities)
    n = 200_000
    drawn, slots, probabilities = buffer.sample_transitions(n)
    share = priorities / priorities.sum()
    counts = torch.bincount(drawn.actions, minlength=6)
    deviation = (counts - n * share).abs() / (n * share * (1 - share)).sqrt().clamp(min=1e-9)
    assert float(deviation[share > 0].max()) < 5
    assert counts[share == 0].tolist() == [0, 0]
    torch.testing.assert_close(probabilities, share[slots])


def test_priority_zero_is_never_drawn() -> None:
    buffer = RolloutBuffer(DAG, Keeps(transitions=20_000))
    priorities = torch.zeros(20_000)
    priorities[::997] = torch.linspace(1e-4, 10, len(priorities[::997]))
    buffer.add_transitions(_numbered(torch.arange(20_000)), priorities)
    drawn, _, _ = buffer.sample_transitions(1_000_000)
    assert set((drawn.actions % 997).tolist()) == {0}


def test_set_priorities_changes_what_is_drawn_and_nothing_else() -> None:
    buffer = RolloutBuffer(DAG, Keeps(transitions=6))
    buffer.add_transitions(_numbered(torch.arange(6)), torch.ones(6))
    buffer.set_priorities(torch.tensor([0, 1, 2, 4, 5]), torch.tensor([0.0, 0.0, 3.0, 0.0, 0.0]))
    drawn, slots, _ = buffer.sample_transitions(40_000)
    assert set(slots.tolist()) == {2, 3}
    assert float((slots == 2).double().mean()) == pytest.approx(0.75, abs=0.02)
    assert torch.equal(drawn.actions, slots)


def test_only_what_was_added_is_drawn_while_the_ring_fills() -> None:
    buffer = RolloutBuffer(DAG, Keeps(transitions=1000))
    buffer.add_transitions(_numbered(torch.arange(5, 9)), torch.ones(4))
    assert set(buffer.sample_transitions(500)[0].actions.tolist()) == {5, 6, 7, 8}


@pytest.mark.parametrize("past_batches", [1, 3, 5])
def test_past_draws_from_exactly_the_last_batches_evenly(past_batches: int) -> None:
    buffer, batches = (
        RolloutBuffer(DAG, Keeps(batches=past_batches)),
        [Batch.of(sample(DAG, 2, seed)) for seed in range(8)],
    )
    for i, batch in enumerate(batches):
        buffer.add(batch)
        assert buffer.newest is buffer.newest_fresh is batch.all
        drawn = Counter(id(buffer.past()) for _ in range(300))
        kept = batches[max(0, i + 1 - past_batches) : i + 1]
        assert set(drawn) == {id(one) for one in kept}
        expected = 300 / len(kept)
        assert all(abs(number - expected) < 5 * math.sqrt(expected) for number in drawn.values())


@pytest.mark.parametrize("compacted", [True, False])
@pytest.mark.parametrize("make", [*SMALL.values(), Bag], ids=[*SMALL, "bag"])
def test_transitions_of_a_batch_are_its_real_edges(
    make: type, compacted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "host_is_free", lambda device: compacted)
    dag = make()
    batch: Trajectories = sample(dag, 40)
    edges, real = Transitions.of(batch), batch.rows.has_action[:-1]
    assert int(real.sum()) == int(batch.mask.sum())
    fields = {name: field[real] for name, field in edges.tensors().items()}
    next_states, reverse = dag.step(fields["states"], fields["actions"])
    assert torch.equal(fields["next_states"], next_states)
    assert torch.equal(fields["backward_actions"], reverse)
    done = dag.is_terminal(next_states)
    assert torch.equal(fields["done"], done)
    assert torch.equal(fields["log_reward"][done], dag.log_reward(next_states)[done])
    expected = Counter(
        (tuple(batch.states[b, t].tolist()), int(batch.actions[b, t])) for b, t in batch.mask.nonzero().tolist()
    )
    found = zip(fields["states"].tolist(), fields["actions"].tolist(), strict=True)
    assert Counter((tuple(state), action) for state, action in found) == expected


def _copy(buffer: RolloutBuffer, keeps: Keeps) -> RolloutBuffer:
    """Return a fresh buffer, of another seed, with the state of `buffer` after a round trip through a file."""
    file = io.BytesIO()
    torch.save(buffer.state_dict(), file)
    file.seek(0)
    fresh = RolloutBuffer(DAG, keeps, seed=99)
    fresh.add(Batch.of(sample(DAG, 3, seed=50)))
    fresh.load_state_dict(torch.load(file, weights_only=True))
    return fresh


@pytest.mark.parametrize("added", [3, 7, 12])
def test_a_loaded_buffer_draws_on_as_if_never_saved(added: int) -> None:
    keeps = Keeps(batches=4, transitions=7)
    one = RolloutBuffer(DAG, keeps, seed=1)
    for seed in range(6):
        one.add(Batch(sample(DAG, 3, seed), sample(DAG, 2, seed + 10)))
    one.add_transitions(_numbered(torch.arange(added)), torch.arange(added) + 1.0)
    one.sample_transitions(5)
    one.past()
    two = _copy(one, keeps)
    for i in range(30):
        drawn, same = one.sample_transitions(6), two.sample_transitions(6)
        assert torch.equal(drawn[1], same[1])
        assert torch.equal(drawn[2], same[2])
        assert torch.equal(drawn[0].log_reward, same[0].log_reward)
        past, past_again = one.past(), two.past()
        for part, again in ((past.all, past_again.all), (past.fresh, past_again.fresh)):
            assert all(torch.equal(x, again.tensors()[name]) for name, x in part.tensors().items())
        for buffer in (one, two):
            numbers = torch.arange(i, i + 2) + 100
            buffer.add_transitions(_numbered(numbers), numbers + 1.0)
            buffer.add(Batch.of(sample(DAG, 2, seed=100 + i)))
    assert torch.equal(one.ring["actions"], two.ring["actions"])


def test_other_seeds_draw_other_transitions() -> None:
    slots = []
    for seed in (0, 0, 1):
        buffer = RolloutBuffer(DAG, Keeps(transitions=100), seed=seed)
        buffer.add_transitions(_numbered(torch.arange(100)), torch.ones(100))
        slots.append(buffer.sample_transitions(50)[1])
    assert torch.equal(slots[0], slots[1])
    assert not torch.equal(slots[0], slots[2])
