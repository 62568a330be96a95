"""Random rollouts and Metropolis-Hastings: the laws that they sample by."""

import math

import pytest
import torch
from scipy import stats
from toy_dags import Bag, Skips, Subsets

from baselines.samplers import MetropolisHastings, RandomPolicy
from gfn_envs import Hypergrid, enumerate_dag
from gfn_envs.exact import canonical


class SymmetricBag(Bag):
    """A bag whose reward is that of a class of states, with what the contract asks of a DAG that renames slots."""

    def log_symmetry(self, states):
        counts = (states[:, :, None] == torch.arange(1, self.num_actions + 1)).sum(1)
        return torch.lgamma(counts + 1.0).sum(1)


DAGS = {
    "grid": Hypergrid(2, 3, R0=0.3),
    "subsets": Subsets(4, 2),
    "skips": Skips(4),
    "bag": SymmetricBag(2, 3),
}


def collect(report_until, method):
    """Run a method until it has reported that many objects; return terminal states and log R."""
    found = []

    def report(progress):
        found.append((progress.states, progress.log_reward))
        return sum(len(states) for states, _ in found) < report_until

    method.run(report)
    return tuple(torch.cat(part) for part in zip(*found, strict=True))


def kernel(dag, mean_back):
    """Return the transition matrix between terminal states, summed over all pairs of paths, by plain recursion."""
    exact = enumerate_dag(dag)
    stay = 1 - 1 / mean_back

    def name(state):
        return tuple(canonical(dag, state[None])[0].tolist())

    places = {name(exact.states[i]): rank for rank, i in enumerate(exact.terminal.tolist())}

    def up(state, probability):
        """Yield each terminal state reached from `state`: its probability, that of walking back, and the steps."""
        legal = dag.action_mask(state[None])[0].nonzero().flatten().tolist()
        if not legal:
            yield state, probability, 1.0, 0
        for action in legal:
            child = dag.step(state[None], torch.tensor([action]))[0][0]
            back = 1 / int(dag.backward_action_mask(child[None]).sum())
            for end, forth, reverse, steps in up(child, probability / len(legal)):
                yield end, forth, reverse * back, steps + 1

    def down(state, steps, probability, reverse):
        """Yield each junction: the probability of walking there, and that of walking up again."""
        legal = dag.backward_action_mask(state[None])[0].nonzero().flatten().tolist()
        if steps:  # at s0 a walk stops however far it was to go
            yield state, probability * (1 if not legal else 1 / mean_back) * stay ** (steps - 1), reverse
        for action in legal:
            parent = dag.backward_step(state[None], torch.tensor([action]))[0][0]
            again = 1 / int(dag.action_mask(parent[None]).sum())
            yield from down(parent, steps + 1, probability / len(legal), reverse * again)

    matrix = torch.zeros(len(places), len(places), dtype=torch.float64)
    for start, row in places.items():
        state = torch.tensor(start)
        for junction, there, again in down(state, 0, 1.0, 1.0):
            at_root = not dag.backward_action_mask(junction[None]).any()
            for end, forth, back, m in up(junction, 1.0):
                length = (1 if at_root else 1 / mean_back) * stay ** (m - 1)
                ratio = float((dag.log_reward(end[None]) - dag.log_reward(state[None])).double().exp())
                move, reverse = there * forth, back * length * again
                taken = min(1.0, ratio * reverse / move) if move else 0.0
                matrix[row, places[name(end)]] += move * taken
                matrix[row, row] += move * (1 - taken)
    return matrix, exact


@pytest.mark.parametrize("dag", DAGS.values(), ids=DAGS)
def test_the_chains_leave_the_target_invariant_and_step_as_their_exact_kernel(dag):
    matrix, exact = kernel(dag, 2.5)
    assert matrix.sum(1).tolist() == pytest.approx([1] * len(matrix))
    assert (exact.target @ matrix).tolist() == pytest.approx(exact.target.tolist())
    method = MetropolisHastings(dag, num_envs=20_000, seed=1, mean_back=2.5)
    for place, rank in enumerate(exact.terminal.tolist()):
        method.states = exact.states[rank].repeat(20_000, 1)
        method.log_reward, method.log_raw_reward = dag.log_rewards(method.states)
        reached = exact.terminal_rank[exact.index(method.move().states)]
        counts = torch.bincount(reached, minlength=len(matrix)).double()
        possible = matrix[place] > 1e-12
        assert counts[~possible].sum() == 0
        expected = matrix[place][possible] * 20_000
        assert stats.chisquare(counts[possible], expected).pvalue > 1e-6


def test_log_rewards_follow_the_chains_through_acceptances_and_rejections():
    method = MetropolisHastings(DAGS["skips"], num_envs=50, seed=0)
    states, log_reward = collect(1000, method)
    torch.testing.assert_close(method.dag.log_reward(states), log_reward)
    torch.testing.assert_close(method.dag.log_rewards(method.states).log_raw_reward, method.log_raw_reward)
    assert 0.1 < method.metrics()["acceptance"] < 0.95


@pytest.mark.parametrize("dag", DAGS.values(), ids=DAGS)
def test_long_chains_come_to_the_target(dag):
    exact = enumerate_dag(dag)
    states, _ = collect(60_000, MetropolisHastings(dag, num_envs=300, seed=0))
    kept = states[30_000:]
    frequencies = torch.bincount(exact.terminal_rank[exact.index(kept)], minlength=len(exact.terminal)) / len(kept)
    assert float((frequencies - exact.target).abs().sum()) < 0.05


def test_random_objects_have_the_law_of_the_uniform_policy():
    dag = DAGS["grid"]
    exact = enumerate_dag(dag)
    method = RandomPolicy(dag, num_envs=5000, seed=0)
    states, _ = collect(40_000, method)
    counts = torch.bincount(exact.terminal_rank[exact.index(states)], minlength=len(exact.terminal)).double()
    expected = exact.terminal_distribution(method.policy()) * counts.sum()
    assert stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-6


def test_a_move_back_needs_a_length():
    for wrong in (0.5, math.nan, "4"):
        with pytest.raises(ValueError, match="mean_back"):
            MetropolisHastings(DAGS["grid"], 2, 0, mean_back=wrong)


def test_with_one_step_back_only_objects_one_step_apart_are_exchanged():
    dag = DAGS["subsets"]
    matrix, exact = kernel(dag, 1.0)
    assert (exact.target @ matrix).tolist() == pytest.approx(exact.target.tolist())
    method = MetropolisHastings(dag, num_envs=2000, seed=0, mean_back=1.0)
    method.run(lambda progress: False)
    before = method.states
    moved = (before != method.move().states).sum(1)
    assert set(moved.tolist()) == {0, 2}
