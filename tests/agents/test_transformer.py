"""The transformer over tokens: outputs as declared, a policy that factorises, and all agents run with it."""

import dataclasses
import io
from typing import Any

import pytest
import torch
from heads import HEADS
from heads import outputs_of as _outputs
from pairs import POTENTIAL, built, config, without
from torch import Tensor

from agents.build import build_trainer
from agents.config import Config, choose_network
from agents.evaluation.estimates import elbo, log_likelihood
from agents.networks.base import Network
from agents.networks.mlp import MLP
from agents.networks.transformer import Transformer, TransformerSettings
from agents.settings import InvalidSettingError
from gfn_envs import BitSequence, enumerate_dag
from gfn_envs.exact import masked_log_softmax

ENV = "gfn/BitSequence-v0"
ORDERS = ["any", "autoregressive"]


def _dag(order: str = "any", device: str = "cpu") -> BitSequence:
    return BitSequence(8, 2, modes=3, order=order, device=device)


def _network(seed: int = 0, order: str = "any", device: str = "cpu", **settings: Any) -> Transformer:
    size = {"width": 16, "layers": 2, "attention_heads": 4, **settings}
    return Transformer(_dag(order, device), HEADS, seed=seed, **size).to(device)


def _states(order: str = "any") -> Tensor:
    """Return some states, s0 and complete ones among them."""
    return enumerate_dag(_dag(order)).states[::7]


def _flat(network: Network) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


# --- The network ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared_torso", [True, False])
@pytest.mark.parametrize(("order", "sizes"), [("any", (16, 4)), ("autoregressive", (4, 1))])
def test_outputs_have_their_shapes_and_differ_between_states(
    order: str, sizes: tuple[int, int], shared_torso: bool
) -> None:
    network, states = _network(order=order, shared_torso=shared_torso), _states(order)
    n = len(states)
    shapes = {"forward": (n, sizes[0]), "backward": (n, sizes[1]), "flow": (n,), "count": (n,)}
    outputs = _outputs(network, states)
    assert {name: tuple(x.shape) for name, x in outputs.items()} == shapes
    for name, x in outputs.items():
        assert len(x.detach().unique(dim=0)) == n, name


def test_a_forward_logit_is_the_places_logit_plus_the_log_probability_of_the_value_there() -> None:
    network, states = _network(), _states()
    head, features = network.head("forward"), network.torsos["shared"](states)
    logits = network(states).forward_logits.unflatten(1, (4, 4))
    places = torch.stack([head.place(features[:, 1 + i]).squeeze(1) for i in range(4)], 1)
    values = torch.stack([head.value(features[:, 1 + i]).softmax(1) for i in range(4)], 1)
    torch.testing.assert_close(logits.logsumexp(2), places)
    torch.testing.assert_close(logits.softmax(2), values)


def test_the_policy_chooses_a_place_among_the_empty_ones_then_a_value() -> None:
    network, dag = _network(), _dag()
    states = _states()[~dag.is_terminal(_states())]
    head, features = network.head("forward"), network.torsos["shared"](states)
    log_pf = masked_log_softmax(network(states).forward_logits, dag.action_mask(states)).unflatten(1, (4, 4))
    of_place = masked_log_softmax(head.place(features[:, 1:]).squeeze(2), states == 0)
    expected = of_place.unsqueeze(2) + head.value(features[:, 1:]).log_softmax(2)
    empty = states == 0
    torch.testing.assert_close(log_pf[empty], expected[empty])


def test_numbers_of_a_whole_state_come_from_the_summary_token() -> None:
    network, states = _network(), _states()
    features, outputs = network.torsos["shared"](states), _outputs(network, states)
    for name in ("flow", "count"):
        torch.testing.assert_close(outputs[name], network.head(name).linear(features[:, 0]).squeeze(1))


def test_nothing_is_dropped_at_random_even_in_training_mode() -> None:
    network, states = _network().train(), _states()
    assert torch.equal(network(states).log_flow, network(states).log_flow)


def test_tokens_are_told_apart_by_place_and_by_value() -> None:
    network = _network()
    states = torch.tensor([[1, 2, 0, 0], [2, 1, 0, 0], [1, 0, 2, 0], [1, 3, 0, 0]])
    flows = network(states).log_flow.tolist()
    assert len({round(flow, 5) for flow in flows}) == 4


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shared_torso", [True, False])
def test_the_backward_policy_starts_uniform_only_if_asked(order: str, shared_torso: bool) -> None:
    states = _states(order)
    for asked in (True, False):
        network = _network(order=order, shared_torso=shared_torso)
        if asked:
            network.zero("backward")
        outputs = _outputs(network, states)
        assert bool((outputs["backward"] == 0).all()) is asked
        for name in ("forward", "flow", "count"):
            assert float(outputs[name].detach().std()) > 0.01, name


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shared_torso", [True, False])
@pytest.mark.parametrize("heads", [tuple(HEADS), ("forward",), ("backward", "count")])
def test_gradients_reach_exactly_the_parameters_of_the_heads_used(
    heads: tuple[str, ...], shared_torso: bool, order: str
) -> None:
    network = _network(order=order, shared_torso=shared_torso)
    total = sum(_outputs(network, _states(order))[head].square().sum() for head in heads)
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)  # type: ignore[arg-type]
    read = {id(p) for p, g in zip(parameters, gradients, strict=True) if g is not None}
    assert all(bool((g != 0).any()) for g in gradients if g is not None)
    assert {id(p) for p in network.parameters_of(*heads)} == read
    if heads == tuple(HEADS):
        assert read == {id(p) for p in parameters}


def test_separate_torsos_share_nothing_and_are_drawn_anew() -> None:
    network = _network(shared_torso=False)
    sets = [{id(p) for p in network.parameters_of(head)} for head in HEADS]
    assert not any(a & b for i, a in enumerate(sets) for b in sets[:i])
    features = [network.torso_of(head)(_states()) for head in HEADS]
    assert not any(torch.allclose(a, b) for i, a in enumerate(features) for b in features[:i])
    assert set(_network().torsos) == {"shared"}


@pytest.mark.parametrize(("width", "layers"), [(8, 1), (16, 3)])
def test_width_and_layers_set_the_size(width: int, layers: int) -> None:
    # A layer: queries, keys, values and output; two linear maps; two norms. Then the last norm, 5 tokens, 5 places.
    layer = 4 * (width + 1) * width + 2 * (width + 1) * width + 2 * 2 * width
    torso = _network(width=width, layers=layers).torsos["shared"]
    assert sum(p.numel() for p in torso.parameters()) == layers * layer + 2 * width + 2 * 5 * width


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shared_torso", [True, False])
def test_the_sampler_says_what_the_forward_head_says_with_and_without_gradient(order: str, shared_torso: bool) -> None:
    network, states = _network(order=order, shared_torso=shared_torso), _states(order)
    expected = _outputs(network, states)
    assert expected["forward"].requires_grad
    torch.testing.assert_close(network.sampler()(states), expected["forward"])
    with torch.no_grad():  # where torch takes another, fused path
        torch.testing.assert_close(network.sampler()(states), expected["forward"].detach())
        for name, x in _outputs(network, states).items():
            torch.testing.assert_close(x, expected[name].detach(), rtol=1e-4, atol=1e-5)


def test_a_state_is_answered_alone_as_in_company() -> None:
    network, states = _network(), _states()
    for name, x in _outputs(network, states).items():
        alone = torch.cat([_outputs(network, state)[name] for state in states.split(1)])
        torch.testing.assert_close(alone, x, rtol=1e-4, atol=1e-5)


def test_equal_seeds_give_equal_weights_and_others_others() -> None:
    one, two, other = (_flat(_network(seed)) for seed in (3, 3, 4))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("gradient", [True, False])
def test_it_runs_where_no_value_can_be_read(order: str, gradient: bool) -> None:
    network = _network(order=order, device="meta")
    assert all(p.is_meta for p in network.parameters())
    with torch.set_grad_enabled(gradient):
        for name, x in _outputs(network, _dag(order, "meta").reset(5)).items():
            assert x.is_meta, name
            assert x.requires_grad is gradient


@pytest.mark.parametrize(("width", "attention_heads"), [(16, 3), (8, 16)])
def test_attention_heads_that_do_not_divide_the_width_are_named(width: int, attention_heads: int) -> None:
    message = f"--network.width must be a multiple of --network.attention-heads, got {width}, {attention_heads}"
    with pytest.raises(ValueError, match=message):
        _network(width=width, attention_heads=attention_heads)


# --- The choice of a network ----------------------------------------------------------------------------------------


def _config(agent: str = "tb", backward: str = "tlm", **values: Any) -> Config:
    small = {
        "env": ENV,
        "env_kwargs": '{"n": 8, "k": 2, "modes": 3}',
        "network__layers": 1,
        "trajectories": 16 * 6,
        "eval_every": 3,
        "eval__max_exact_edges": 10**6,
        "eval__test_every": 1,
        "eval__test_rollouts": 2,
    }
    return config(agent, backward, **(small | values))


GRID = {"env": "gfn/Hypergrid-v0", "env_kwargs": '{"dim": 2, "side": 4}'}
IN_ORDER = {"env_kwargs": '{"n": 8, "k": 2, "modes": 3, "order": "autoregressive"}'}


@pytest.mark.parametrize(
    ("env", "name", "kind"),
    [
        ({}, "auto", Transformer),
        (IN_ORDER, "auto", Transformer),
        ({}, "transformer", Transformer),
        ({}, "mlp", MLP),
        (GRID, "auto", MLP),
        (GRID, "mlp", MLP),
    ],
)
def test_auto_takes_the_transformer_exactly_where_states_read_as_tokens(
    env: dict[str, str], name: str, kind: type
) -> None:
    settings = _config(network=name, **env)
    assert settings.network == {Transformer: "transformer", MLP: "mlp"}[kind]
    assert type(built(settings).network) is kind


def test_a_network_that_does_not_fit_or_is_unknown_is_named() -> None:
    does_not_fit = r"--network transformer needs Hypergrid to offer token_view\(\)"
    with pytest.raises(ValueError, match=does_not_fit):
        choose_network("transformer", "gfn/Hypergrid-v0")
    with pytest.raises(ValueError, match=does_not_fit):
        built(dataclasses.replace(_config(), **GRID))
    for name, first in (("transfomer", "transformer"), ("MLP", "mlp"), ("aut", "auto")):
        with pytest.raises(ValueError, match=f"Unknown network '{name}'. Known, closest first: {first}, "):
            choose_network(name, ENV)


@pytest.mark.parametrize(("network", "env"), [("mlp", {}), ("auto", GRID), ("mlp", GRID)])
def test_a_setting_that_the_chosen_network_does_not_read_is_an_error(network: str, env: dict[str, str]) -> None:
    with pytest.raises(InvalidSettingError, match=r"unknown settings: network\.attention_heads\. There are here: "):
        _config(network=network, network__attention_heads=4, **env)
    assert _config(network="transformer", network__attention_heads=4).flat()["network.attention_heads"] == 4


def test_every_setting_of_the_transformer_reaches_it() -> None:
    changes = {"attention_heads": 2, "layers": 2, "width": 24, "shared_torso": False}
    assert set(changes) == {field.name for field in dataclasses.fields(TransformerSettings)}
    given = {f"network__{name}": value for name, value in changes.items()}
    network = built(_config("db", "tlm", backward__zero_init=False, **given)).network
    layers = network.torso_of("forward").encoder.layers  # type: ignore[union-attr]
    assert [layer.self_attn.num_heads for layer in layers] == [2, 2]
    assert layers[0].linear1.out_features == 24
    assert bool((network.head("backward").place.weight != 0).any())  # type: ignore[union-attr]
    assert set(network.torsos) == {"forward_head", "flow_head", "backward_head"}


# --- With the agents ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("agent", "backward"), without(*POTENTIAL))
def test_every_pair_steps_with_the_transformer_without_waiting_for_the_host(
    agent: str, backward: str, order: str
) -> None:
    trainer = build_trainer(_config(agent, backward, eval__max_exact_edges=0), _dag(order, "meta"))
    assert isinstance(trainer.network, Transformer)
    for _ in range(2):
        trainer.step()
    assert trainer.agent.log_z().is_meta
    assert elbo(trainer.agent, 4, None).is_meta
    assert log_likelihood(trainer.agent, trainer.dag.test_states()[:4], 2, None).is_meta  # type: ignore[attr-defined]
    assert all(p.is_meta for p in trainer.network.parameters())


@pytest.mark.parametrize(("agent", "backward"), [("db", "naive"), ("subtb", "pessimistic"), ("mdqn", "tlm")])
def test_training_changes_the_weights_and_equal_seeds_give_equal_ones(agent: str, backward: str) -> None:
    weights = []
    for seed in (0, 0, 1):
        trainer = build_trainer(_config(agent, backward, seed=seed), _dag())
        start = _flat(trainer.network)  # type: ignore[arg-type]
        assert trainer.train(lambda metrics: None, lambda: False, progress=False)
        weights.append(_flat(trainer.network))  # type: ignore[arg-type]
        assert bool(weights[-1].isfinite().all())
        assert not torch.equal(start, weights[-1])
        assert trainer.history[-1].keys() >= {"modes_found", "spearman", "elbo", "l1_exact"}
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_run_saved_half_way_goes_on_to_the_same_bits() -> None:
    settings = _config("mdqn", "tlm", trajectories=16 * 12)
    whole, first, second = (build_trainer(settings, _dag()) for _ in range(3))
    assert whole.train(lambda metrics: None, lambda: False, progress=False)
    assert not first.train(lambda metrics: None, lambda: first.iteration == 5, progress=False)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert second.train(lambda metrics: None, lambda: False, progress=False)
    assert torch.equal(_flat(whole.network), _flat(second.network))  # type: ignore[arg-type]
    rows = [
        [{k: v for k, v in row.items() if "second" not in k} for row in trainer.history] for trainer in (whole, second)
    ]
    assert rows[0] == rows[1]
    other = build_trainer(dataclasses.replace(settings, seed=1), _dag())
    other.train(lambda metrics: None, lambda: False, progress=False)
    assert not torch.equal(_flat(whole.network), _flat(other.network))  # type: ignore[arg-type]
