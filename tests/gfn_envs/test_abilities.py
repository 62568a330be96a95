"""What environments can do beyond the contract, and what the contract answers by itself."""

import inspect

import pytest
import torch
from toy_dags import Bag, Skips, Subsets

import gfn_envs
from gfn_envs import DAG, BitSequence, Hypergrid, abilities, enumerate_dag

PROTOCOLS = {
    name: protocol
    for name, protocol in vars(abilities).items()
    if inspect.isclass(protocol) and getattr(protocol, "_is_protocol", False) and name != "Protocol"
}
KNOWN = {
    "gfn/Hypergrid-v0": {"CountsTrajectories", "KnowsPartition", "SamplesTarget", "HasPotential", "HasModes"},
    "gfn/HypergridHard-v0": {"CountsTrajectories", "KnowsPartition", "SamplesTarget", "HasPotential", "HasModes"},
    "gfn/BitSequence-v0": {"CountsTrajectories", "HasPotential", "HasModes", "HasTestSet", "TokenStates"},
    "gfn/GraphSet-v0": {
        "CountsTrajectories",
        "KnowsPartition",
        "SamplesTarget",
        "HasPotential",
        "HasModes",
        "TokenStates",
    },
    "gfn/QM9Blocks-v0": {
        "CountsTrajectories",
        "KnowsPartition",
        "SamplesTarget",
        "HasPotential",
        "HasModes",
        "TokenStates",
        "Molecules",
    },
    "gfn/RNABinding-v0": {"CountsTrajectories", "KnowsPartition", "SamplesTarget", "HasModes", "TokenStates"},
    "gfn/TFBind8-v0": {"CountsTrajectories", "KnowsPartition", "SamplesTarget", "HasModes", "TokenStates"},
    "gfn/BayesNet-v0": {"CountsTrajectories", "KnowsPartition", "SamplesTarget", "HasPotential", "GraphStates"},
    "gfn/Set-v0": {"CountsTrajectories", "KnowsPartition", "SamplesTarget", "HasPotential"},
    "gfn/Bag-v0": {"CountsTrajectories", "KnowsPartition", "SamplesTarget", "HasPotential", "HasModes"},
    "gfn/RandomDAG-v0": {"CountsTrajectories", "KnowsPartition", "SamplesTarget"},
    "gfn/QM9-v0": {"HasTestSet", "HasSizes", "GraphStates", "Molecules", "ReadsSmiles", "TellsNovelty"},
    "gfn/SEH-v0": {"CountsTrajectories", "HasTestSet", "HasSizes", "GraphStates", "Molecules"},
}


@pytest.mark.parametrize("id", gfn_envs.registered())
def test_an_instance_and_its_class_tell_the_same_abilities(id: str) -> None:
    dag = gfn_envs.make(id)
    has = {name for name, protocol in PROTOCOLS.items() if isinstance(dag, protocol)}
    assert has == {name for name, protocol in PROTOCOLS.items() if issubclass(type(dag), protocol)}
    assert has == KNOWN.get(id, has)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_contract_itself_has_no_ability_and_every_ability_says_what_it_returns(name: str) -> None:
    assert not issubclass(DAG, PROTOCOLS[name])
    for method in (member for member in vars(PROTOCOLS[name]).values() if inspect.isfunction(member)):
        if method.__name__ not in ("__init__", "__subclasshook__", "_proto_hook", "_no_init_or_replace_init"):
            assert (method.__doc__ or "").startswith("Return ")


def test_an_ability_is_told_by_the_methods_alone() -> None:
    class WithPartition(Skips):
        def log_partition(self) -> float:
            return 0.0

    assert isinstance(WithPartition(), abilities.KnowsPartition)
    assert not isinstance(Skips(), abilities.KnowsPartition)


@pytest.mark.parametrize("dag", [Skips(), Subsets(), Hypergrid(2, 4), BitSequence(8, 2, modes=2)])
def test_without_renaming_states_stand_for_themselves(dag: DAG) -> None:
    states = enumerate_dag(dag).states
    assert not dag.renames_slots
    assert torch.equal(dag.canonical(states), states)
    assert torch.equal(dag.log_symmetry(states), torch.zeros(len(states)))


@pytest.mark.parametrize("dag", [Skips(), Bag(), Hypergrid(2, 4), BitSequence(8, 2, modes=2)])
def test_the_raw_reward_is_the_reward_unless_an_environment_says_otherwise(dag: DAG) -> None:
    exact = enumerate_dag(dag)
    rewards = dag.log_rewards(exact.states[exact.terminal])
    assert torch.equal(rewards.log_reward, rewards.log_raw_reward)
    assert torch.equal(rewards.log_reward.double(), exact.log_reward)
    assert torch.equal(rewards.log_raw_reward.double(), exact.log_raw_reward)


def test_an_enumeration_keeps_the_raw_reward() -> None:
    dag = gfn_envs.QM9(2, beta=3.0)
    exact = enumerate_dag(dag)
    r = dag.rewards(exact.states[exact.terminal]).double()
    torch.testing.assert_close(exact.log_raw_reward, r.log())
    torch.testing.assert_close(exact.log_reward, 3 * r.log() + exact.log_symmetry)
    assert float(exact.log_symmetry.max()) > 0


@pytest.mark.parametrize("reward", ["standard", "hard"])
def test_the_potential_of_the_grid_is_what_stopping_here_would_pay_beyond_the_origin(reward: str) -> None:
    dag = Hypergrid(2, 8, reward=reward)
    states = enumerate_dag(dag).states
    stopped = torch.cat([states[:, :-1], torch.ones(len(states), 1, dtype=torch.int64)], 1)
    wanted = dag.log_reward(stopped) - dag.log_reward(torch.tensor([[0, 0, 1]]))
    torch.testing.assert_close(dag.log_potential(states), wanted)
    assert float(dag.log_potential(dag.reset(1))) == 0
    assert len(dag.log_potential(states).unique()) == 3


@pytest.mark.parametrize("id", gfn_envs.registered())
def test_the_stop_action_is_the_one_that_completes_an_object(id: str) -> None:
    dag = gfn_envs.make(id)
    if dag.stop_action is None:
        return
    assert dag.stop_action == dag.num_actions - 1
    state = dag.reset(1)
    while not bool(dag.action_mask(state)[0, dag.stop_action]):
        state = dag.step(state, dag.action_mask(state).int().argmax(1))[0]
    assert bool(dag.is_terminal(dag.step(state, torch.tensor([dag.stop_action]))[0]))
