"""Rollouts are legal walks with the policy's law, in both directions, with and without dropping finished rows."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toy_dags import Bag
from true_flows import SMALL, Flow, Table, sample, uniform_policy

from agents.sampling import rollout as module
from agents.sampling.categorical import gumbel_noise, sample_actions
from agents.sampling.rollout import Trajectories, rollout
from gfn_envs import DAG, Hypergrid, enumerate_dag

DAGS = {**SMALL, "bag": lambda: Bag(), "large": lambda: Hypergrid(dim=3, side=8)}


@pytest.fixture(params=[True, False], ids=["compacted", "padded"])
def compacting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run a test both as on the CPU and as on a GPU."""
    monkeypatch.setattr(module, "host_is_free", lambda device: request.param)
    return request.param


def _backward_logits(dag: DAG) -> Callable[[Tensor], Tensor]:
    return lambda states: torch.zeros(len(states), dag.num_backward_actions)


def _walks(dag: DAG, backward: bool, n: int = 200, seed: int = 0) -> Trajectories:
    walks = sample(dag, n, seed)
    if not backward:
        return walks
    generator = torch.Generator().manual_seed(seed)
    return rollout(dag, _backward_logits(dag), walks.terminal_states, generator, backward=True)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", DAGS)
def test_every_step_is_legal_and_is_the_dags_own(name: str, backward: bool, compacting: bool) -> None:
    dag = DAGS[name]()
    walks = _walks(dag, backward)
    renames = backward and dag.renames_slots
    assert walks.states.shape == (200, walks.mask.shape[1] + 1, dag.state_dim)
    assert torch.equal(walks.states[:, 0], dag.reset(200))
    assert walks.mask.shape[1] <= dag.max_steps
    for t in range(walks.mask.shape[1]):
        real = walks.mask[:, t]
        here, there = walks.states[real, t], walks.states[real, t + 1]
        actions, reverse = walks.actions[real, t], walks.backward_actions[real, t]
        assert bool(dag.action_mask(here).gather(1, actions[:, None]).all())
        assert bool(dag.backward_action_mask(there).gather(1, reverse[:, None]).all())
        assert torch.equal(dag.backward_step(there, reverse)[0], here)
        assert torch.equal(dag.backward_step(there, reverse)[1], actions)
        if not renames:
            assert torch.equal(dag.step(here, actions)[0], there)
            assert torch.equal(dag.step(here, actions)[1], reverse)
    later = walks.mask[:, 1:] <= walks.mask[:, :-1]
    assert bool(later.all()), "a trajectory goes on after its end"
    assert bool(dag.is_terminal(walks.terminal_states).all())
    at_end = walks.states[torch.arange(200), walks.lengths]
    assert torch.equal(walks.terminal_states, at_end)
    assert torch.equal(walks.log_reward, dag.log_reward(at_end))


@pytest.mark.parametrize("name", DAGS)
def test_a_backward_rollout_ends_where_it_was_asked_to(name: str, compacting: bool) -> None:
    dag = DAGS[name]()
    ends = sample(dag, 100).terminal_states
    walks = rollout(dag, _backward_logits(dag), ends, torch.Generator().manual_seed(0), backward=True)
    assert torch.equal(walks.terminal_states, ends)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", DAGS)
def test_the_padding_holds_numbers_in_range(name: str, backward: bool, compacting: bool) -> None:
    dag = DAGS[name]()
    # A lawful DAG may say anything of an illegal step, which a rollout takes with finished rows.
    step, backward_step = dag.step, dag.backward_step

    def wild(result: tuple[Tensor, Tensor], legal: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(legal[:, None], result[0], 99), torch.where(legal, result[1], -7)

    dag.step = lambda s, a: wild(step(s, a), dag.action_mask(s).gather(1, a[:, None])[:, 0])
    dag.backward_step = lambda s, b: wild(backward_step(s, b), dag.backward_action_mask(s).gather(1, b[:, None])[:, 0])
    walks = _walks(dag, backward)
    assert bool(((walks.states >= 0) & (walks.states < torch.tensor(dag.nvec))).all())
    assert bool(((walks.actions >= 0) & (walks.actions < dag.num_actions)).all())
    assert bool(((walks.backward_actions >= 0) & (walks.backward_actions < dag.num_backward_actions)).all())


@pytest.mark.parametrize("backward", [False, True])
def test_equal_seeds_give_equal_trajectories_and_other_seeds_others(backward: bool, compacting: bool) -> None:
    dag = DAGS["large"]()
    one, two, other = (_walks(dag, backward, seed=seed) for seed in (5, 5, 6))
    for name, tensor in one.tensors().items():
        assert torch.equal(tensor, two.tensors()[name]), name
    assert not (one.states.shape == other.states.shape and torch.equal(one.states, other.states))


def _chi_square_ok(counts: Tensor, probabilities: Tensor) -> bool:
    """Tell whether Pearson's statistic is at most 6 standard deviations too large, and nothing impossible happened."""
    n = counts.sum()
    often = n * probabilities >= 10
    k = max(int(often.sum()) - 1, 1)
    statistic = float(((counts - n * probabilities).square() / (n * probabilities))[often].sum())
    return statistic < k + 6 * math.sqrt(2 * k) and bool((counts[probabilities == 0] == 0).all())


@pytest.mark.parametrize("name", ["grid", "skips", "subsets"])
def test_lengths_and_ends_have_the_exact_distribution(name: str, compacting: bool) -> None:
    dag = SMALL[name]()
    enumeration = enumerate_dag(dag)
    generator = torch.Generator().manual_seed(3)
    table = torch.randn(enumeration.num_states, dag.num_actions, generator=generator)
    policy = Table(enumeration, table).requires_grad_(False)
    walks = [rollout(dag, policy, dag.reset(1000), generator) for _ in range(60)]
    ends = torch.cat([walk.terminal_states for walk in walks])
    counts = torch.bincount(enumeration.terminal_rank[enumeration.index(ends)], minlength=len(enumeration.terminal))
    assert _chi_square_ok(counts, enumeration.terminal_distribution(policy))
    # The law of the length: push probability through (state, steps so far).
    probs = enumeration.edge_log_probs(policy).exp()
    mass, expected = torch.zeros(enumeration.num_states, dtype=torch.float64), []
    mass[0] = 1
    for _ in range(dag.max_steps):
        mass = torch.zeros_like(mass).index_add_(0, enumeration.children, mass[enumeration.parents] * probs)
        expected.append(mass[enumeration.terminal].sum())
    lengths = torch.bincount(torch.cat([walk.lengths for walk in walks]), minlength=dag.max_steps + 1)
    assert lengths[0] == 0
    assert _chi_square_ok(lengths[1:], torch.stack(expected))


@pytest.mark.parametrize("name", ["grid", "skips", "subsets"])
def test_a_backward_rollout_has_the_law_of_its_policy(name: str, compacting: bool) -> None:
    # From x ~ R/Z backwards along P_B, a state is met with probability F(s)/Z.
    flow = Flow.of(SMALL[name]())
    e, generator = flow.enumeration, torch.Generator().manual_seed(1)
    n = 40_000
    ends = e.states[e.terminal[torch.multinomial(e.target, n, replacement=True, generator=generator)]]
    policy = Table(e, flow.backward_logits.float()).requires_grad_(False)
    walks = rollout(e.dag, policy, ends, generator, backward=True)
    counts = torch.bincount(e.index(walks.states[:, 1:][walks.mask]), minlength=e.num_states)
    expected = (flow.log_flow - e.log_z).exp() * n
    deviation = (counts - expected)[1:].abs() / expected[1:].sqrt().clamp(min=1)
    assert float(deviation.max()) < 5


EXTREMES = (0.0, 1.0, -1.0, 1e30, -1e30, 3e38, -3e38, math.inf, -math.inf)


def test_a_million_draws_never_give_a_masked_action() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        n = 100_000
        mask = torch.rand(n, 6, generator=generator) < torch.rand(n, 1, generator=generator)
        mask[torch.arange(n), torch.randint(6, (n,), generator=generator)] = True
        logits = torch.tensor(EXTREMES)[torch.randint(len(EXTREMES), (n, 6), generator=generator)]
        # A third of the rows: -inf on all that is legal, and the most tempting logits on what is not.
        logits[: n // 3] = torch.where(mask[: n // 3], -math.inf, 3e38)
        actions = sample_actions(logits, mask, gumbel_noise((n, 6), torch.device("cpu"), generator))
        assert bool(mask.gather(1, actions[:, None]).all())


@given(
    logits=st.lists(st.floats(width=32, allow_nan=True), min_size=1, max_size=6),
    legal=st.integers(1, 63),
    noise=st.lists(st.floats(-20, 100, width=32), min_size=6, max_size=6),
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_no_logits_and_no_noise_give_a_masked_action(logits: list[float], legal: int, noise: list[float]) -> None:
    n = len(logits)
    mask = torch.tensor([[bool(legal >> i & 1) for i in range(n)]])
    if not bool(mask.any()):
        mask[0, 0] = True
    action = int(sample_actions(torch.tensor([logits]), mask, torch.tensor([noise[:n]])))
    assert bool(mask[0, action])


def test_sampling_changes_none_of_its_inputs() -> None:
    logits, mask, noise = torch.randn(4, 3), torch.tensor([[True, False, True]] * 4), torch.randn(4, 3)
    copies = [x.clone() for x in (logits, mask, noise)]
    sample_actions(logits, mask, noise)
    assert all(torch.equal(x, y) for x, y in zip((logits, mask, noise), copies, strict=True))


def test_sampled_frequencies_are_the_softmax_over_legal_actions() -> None:
    generator, n = torch.Generator().manual_seed(1), 400_000
    logits = torch.tensor([[0.5, -1.0, 9.0, 2.0, -3.0]])
    mask = torch.tensor([[True, True, False, True, True]])
    actions = sample_actions(
        logits.expand(n, 5), mask.expand(n, 5), gumbel_noise((n, 5), torch.device("cpu"), generator)
    )
    expected = logits[0].double().masked_fill(~mask[0], -math.inf).softmax(0)
    assert _chi_square_ok(torch.bincount(actions, minlength=5), expected)
    assert not _chi_square_ok(torch.bincount(actions, minlength=5), (logits[0].double() / 1.05).masked_fill(
        ~mask[0], -math.inf
    ).softmax(0)), "the test would miss a temperature of 1.05"  # fmt: skip


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_mixes_in_uniform_legal_actions(epsilon: float, compacting: bool) -> None:
    dag = Hypergrid(dim=3, side=3)
    start = torch.tensor([[2, 0, 1, 0]])
    logits = torch.tensor([3.0, 1.0, -0.5, 0.0])
    n = 100_000
    walks = rollout(
        dag,
        lambda states: logits.expand(len(states), 4),
        start.repeat(n, 1),
        torch.Generator().manual_seed(0),
        epsilon,
    )
    legal = dag.action_mask(start)[0]
    greedy = logits.double().masked_fill(~legal, -math.inf).softmax(0)
    expected = (1 - epsilon) * greedy + epsilon * legal.double() / legal.sum()
    assert _chi_square_ok(torch.bincount(walks.actions[:, 0], minlength=4), expected)


def test_epsilon_is_tossed_anew_for_every_row_and_step() -> None:
    dag = Hypergrid(dim=2, side=20)
    stays = torch.tensor([30.0, 0.0, -30.0])
    walks = rollout(dag, lambda s: stays.expand(len(s), 3), dag.reset(4000), torch.Generator().manual_seed(0), 0.5)
    # Half of the steps are random, a third of those stop: the first two steps stop independently with probability 1/6.
    first = walks.lengths == 1
    second = (walks.lengths == 2)[~first].double().mean()
    assert float(first.double().mean()) == pytest.approx(1 / 6, abs=0.03)
    assert float(second) == pytest.approx(1 / 6, abs=0.03)


def test_the_policy_sees_only_live_rows_when_compacting(monkeypatch: pytest.MonkeyPatch) -> None:
    dag = Hypergrid(dim=2, side=20)
    seen: dict[bool, int] = {}
    for compacted in (True, False):
        monkeypatch.setattr(module, "host_is_free", lambda device, compacted=compacted: compacted)
        sizes: list[int] = []

        def policy(states: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(len(states))
            return torch.zeros(len(states), 3)

        walks = rollout(dag, policy, dag.reset(500), torch.Generator().manual_seed(0))
        seen[compacted] = sum(sizes)
        assert len(sizes) == walks.mask.shape[1]
        assert compacted or (len(sizes) == dag.max_steps and set(sizes) == {500})
    assert seen[True] < seen[False] / 4


def test_the_policy_gets_no_gradient() -> None:
    dag = SMALL["grid"]()
    grads: list[bool] = []

    def policy(states: Tensor) -> Tensor:
        grads.append(torch.is_grad_enabled())
        return torch.zeros(len(states), dag.num_actions)

    rollout(dag, policy, dag.reset(4), torch.Generator().manual_seed(0))
    assert not any(grads)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", DAGS)
def test_rows_are_the_real_states_one_after_another(name: str, backward: bool, compacting: bool) -> None:
    dag = DAGS[name]()
    walks = _walks(dag, backward, n=50)
    rows = walks.rows
    number = torch.arange(walks.states.shape[0] * walks.states.shape[1]).view(walks.states.shape[:2])
    real = torch.nn.functional.pad(walks.mask, (1, 0), value=True)
    assert rows.shape == tuple(real.shape)
    if compacting:
        assert torch.equal(rows.index, number[real])
    else:
        assert torch.equal(rows.index, number.flatten())
    at = rows.index
    trajectory, t = at // rows.shape[1], at % rows.shape[1]
    assert torch.equal(rows.states, walks.states[trajectory, t])
    assert torch.equal(rows.log_reward, walks.log_reward[trajectory])
    assert torch.equal(rows.has_action, t < walks.lengths[trajectory])
    assert torch.equal(rows.has_parent, (t > 0) & (t <= walks.lengths[trajectory]))
    leaves, reached = rows.has_action, rows.has_parent
    assert torch.equal(rows.actions[leaves], walks.actions[trajectory, t.clamp(max=walks.mask.shape[1] - 1)][leaves])
    assert torch.equal(
        rows.backward_actions[reached], walks.backward_actions[trajectory, (t - 1).clamp(min=0)][reached]
    )
    following = leaves.nonzero().flatten()
    assert torch.equal(rows.index[following + 1], rows.index[following] + 1)


@pytest.mark.parametrize("name", DAGS)
def test_pad_puts_values_back_in_place(name: str, compacting: bool) -> None:
    walks = _walks(DAGS[name](), backward=False, n=50)
    rows = walks.rows
    real = torch.nn.functional.pad(walks.mask, (1, 0), value=True)
    values = torch.randn(len(rows.states), dtype=torch.float64, requires_grad=True)
    padded = rows.pad(values)
    assert padded.shape == walks.states.shape[:2]
    assert torch.equal(padded.flatten()[rows.index], values)
    if compacting:
        assert bool((padded[~real] == 0).all())
    assert torch.equal(rows.pad(rows.states[:, 0])[real], walks.states[..., 0][real])
    (gradient,) = torch.autograd.grad(padded[real].sum(), values)
    assert torch.equal(gradient, real.flatten()[rows.index].double())


def test_a_batch_that_is_done_at_the_start_has_no_steps(compacting: bool) -> None:
    dag = SMALL["grid"]()
    ends = torch.tensor([[1, 2, 1], [0, 0, 1]])
    walks = rollout(dag, uniform_policy(dag), ends, torch.Generator().manual_seed(0))
    assert walks.lengths.tolist() == [0, 0]
    assert torch.equal(walks.terminal_states, ends)
