"""The graph transformer: renaming slots renames its logits, padding and company change nothing, rings are seen."""

import copy
import math
from typing import Any

import networkx as nx
import pytest
import torch
from heads import HEADS
from heads import outputs_of as _outputs
from torch import Tensor
from torch.nn import functional

from agents.networks import graph_transformer
from agents.networks.graph_transformer import GraphTransformer, _Attention, _merged, _plan
from agents.networks.target import Target
from gfn_envs.views import GraphView

SLOTS, FEATURES, WHOLE = 5, 2, 2
VALUES = {False: 3, True: 4}
ORDERED = [False, True]


class _Graphs:
    """What a network asks of a DAG of random graphs; states are `nodes, pairs, whole` side by side."""

    def __init__(self, ordered: bool, slots: int = SLOTS, device: str = "cpu") -> None:
        self.ordered, self.slots, self.device = ordered, slots, torch.device(device)

    def graph_view(self) -> GraphView:
        return GraphView(self.slots, (4, 3), VALUES[self.ordered], (2, 3), self.ordered, 3, 2, 1, 4)

    def graph(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        nodes, pairs, whole = states.split([FEATURES * self.slots, self.slots**2, WHOLE], 1)
        return nodes.unflatten(1, (self.slots, FEATURES)), pairs.unflatten(1, (self.slots, self.slots)), whole

    def states(self, n: int = 64, seed: int = 0) -> Tensor:
        """Return random graphs, those of 0 and of all slots among them; padding holds anything but feature 0."""
        generator = torch.Generator().manual_seed(seed)
        filled = torch.arange(self.slots) < (torch.randperm(n, generator=generator) % (self.slots + 1)).unsqueeze(1)
        kinds = torch.randint(1, 4, (n, self.slots), generator=generator) * filled
        nodes = torch.stack([kinds, torch.randint(0, 3, kinds.shape, generator=generator)], 2)
        pairs = torch.randint(0, VALUES[self.ordered], (n, self.slots, self.slots), generator=generator)
        pairs *= torch.rand(pairs.shape, generator=generator) < 0.4
        pairs = pairs * (1 - torch.eye(self.slots, dtype=torch.int64))
        if not self.ordered:
            pairs = pairs.triu(1) + pairs.triu(1).transpose(1, 2)
        whole = torch.randint(0, 2, (n, WHOLE), generator=generator)
        return torch.cat([nodes.flatten(1), pairs.flatten(1), whole], 1).to(self.device)

    def sizes(self, states: Tensor) -> Tensor:
        return (self.graph(states)[0][:, :, 0] != 0).sum(1)


def _network(ordered: bool, seed: int = 0, device: str = "cpu", slots: int = SLOTS, **settings: Any) -> Any:
    size = {"width": 16, "layers": 2, "attention_heads": 2, **settings}
    dag: Any = _Graphs(ordered, slots, device)
    return GraphTransformer(dag, HEADS, seed=seed, **size).double().to(device)


def _close(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    for name in HEADS:
        torch.testing.assert_close(one[name], two[name], rtol=1e-9, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}")


# --- The whole forward pass, once more in loops -----------------------------------------------------------------------


def _pairs_in_order(slots: int, ordered: bool) -> list[tuple[int, int]]:
    return [(i, j) for i in range(slots) for j in range(slots) if ordered or i < j]


class _Reference:
    """One graph at a time and one pair of tokens at a time, from the parameters and the formulas alone."""

    def __init__(self, network: Any, dag: _Graphs, state: Tensor) -> None:
        self.net, self.torso, self.dag = network, network.torsos["shared"], dag
        nodes, pairs, whole = (part[0].tolist() for part in dag.graph(state.unsqueeze(0)))
        self.nodes = [features for features in nodes if features[0] > 0]
        self.pairs, self.whole, self.n = pairs, whole, len(self.nodes)
        graph = nx.Graph()
        graph.add_nodes_from(range(self.n))
        graph.add_edges_from((i, j) for i in range(self.n) for j in range(self.n) if pairs[i][j])
        self.lengths = dict(nx.all_pairs_shortest_path_length(graph))
        self.graph = graph
        self.x = self._features()

    def _kind(self, table: Any, i: int, j: int) -> Tensor:
        """The table's numbers for the pair of nodes (i, j)."""
        keys = [self.lengths[i].get(j, self.dag.slots)]
        # A node's neighbours are all in common with itself.
        keys += [min(2, len(set(self.graph[i]) & set(self.graph[j]))), self.pairs[i][j]]
        keys += [self.pairs[j][i]] if self.dag.ordered else []
        return sum(part[key] for part, key in zip(table.parts, keys, strict=True))  # type: ignore[return-value]

    def _biases(self, i: int, j: int) -> Tensor:
        """Biases of token i looking at token j, where token 0 is the summary: `[layers, 2, heads]`."""
        if i and j:
            return self._kind(self.torso.biases, i - 1, j - 1).view(self.torso.shape)
        return self.torso.summary_biases[2 if i == j else 0 if i == 0 else 1].view(self.torso.shape)

    def _features(self) -> list[Tensor]:
        rows = self.torso.embedding
        x = [self.torso.summary + rows[7 + self.whole[0]] + rows[9 + self.whole[1]]]
        for i, features in enumerate(self.nodes):
            around = sum(self._kind(self.torso.around, i, j) for j in range(self.n))
            x.append(rows[features[0]] + rows[4 + features[1]] + around)
        for number, layer in enumerate(self.torso.layers):
            first, second = layer.norms
            mixed = self._attention([first(token) @ layer.qkv for token in x], number)
            x = [token + more @ layer.out for token, more in zip(x, mixed, strict=True)]
            x = [token + functional.gelu(second(token) @ layer.up) @ layer.down for token in x]
        return [self.torso.norm(token) for token in x]

    def _attention(self, qkv: list[Tensor], layer: int) -> list[Tensor]:
        heads, width = self.torso.shape[2], len(qkv[0]) // 3
        outputs = []
        for i in range(len(qkv)):
            parts = []
            for head, columns in enumerate(torch.arange(width).chunk(heads)):
                biases = [self._biases(i, j)[layer] for j in range(len(qkv))]
                scores = [qkv[i][columns] @ qkv[j][width + columns] for j in range(len(qkv))]
                scores = [s / math.sqrt(width / heads) + b[0, head] for s, b in zip(scores, biases, strict=True)]
                weights = torch.stack(scores).softmax(0)
                weights = [w + b[1, head] for w, b in zip(weights, biases, strict=True)]
                parts.append(sum(w * other[2 * width + columns] for w, other in zip(weights, qkv, strict=True)))
            outputs.append(torch.cat(parts))
        return outputs

    def logits(self, name: str, node_actions: int, pair_actions: int) -> Tensor:
        head, values = self.net.head(name), []
        for slot in range(self.dag.slots):
            if name == "forward" and slot == self.n == 0:
                values += head.first(self.x[0]).unbind()
                continue
            values += head.node(self.x[1 + slot]).unbind() if slot < self.n else [torch.tensor(0.0)] * node_actions
        for i, j in _pairs_in_order(self.dag.slots, self.dag.ordered):
            values += self._pair(head, i, j, pair_actions) if max(i, j) < self.n else [torch.tensor(0.0)] * pair_actions
        return torch.stack([*(value.double() for value in values), head.stop(self.x[0])[0]])

    def _pair(self, head: Any, i: int, j: int, actions: int) -> list[Tensor]:
        ends = 2 if self.dag.ordered else 1
        u, v = (head.factors(self.x[1 + k]).view(ends, actions, -1) for k in (i, j))
        a, b = (head.offsets(self.x[1 + k]).view(ends, actions) for k in (i, j))
        kind = self._kind(head.of_kind, i, j)
        return [(head.scale[c, 0] * u[0, c] * v[-1, c]).sum() + a[0, c] + b[-1, c] + kind[c] for c in range(actions)]


@pytest.mark.parametrize("ordered", ORDERED)
def test_outputs_are_those_of_the_plain_formulas(ordered: bool) -> None:
    dag, network = _Graphs(ordered), _network(ordered)
    states = dag.states(18)
    assert set(dag.sizes(states).tolist()) == set(range(SLOTS + 1))
    for state, *rows in zip(states, *_outputs(network, states).values(), strict=True):
        reference = _Reference(network, dag, state)
        torch.testing.assert_close(rows[0], reference.logits("forward", 3, 2))
        torch.testing.assert_close(rows[1], reference.logits("backward", 1, 4))
        for name, row in zip(("flow", "count"), rows[2:], strict=True):
            torch.testing.assert_close(row, network.head(name).linear(reference.x[0])[0])


# --- What changes nothing ---------------------------------------------------------------------------------------------


def _renamed(dag: _Graphs, states: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Return the states with their filled slots in another order, and that order `[B, slots]`."""
    nodes, pairs, whole = dag.graph(states)
    noise = torch.rand(nodes.shape[:2], generator=torch.Generator().manual_seed(seed))
    order = torch.where(nodes[:, :, 0] != 0, noise, 2 + torch.arange(dag.slots)).argsort(1)
    nodes = nodes.gather(1, order.unsqueeze(2).expand_as(nodes))
    pairs = pairs.gather(1, order.unsqueeze(2).expand_as(pairs)).gather(2, order.unsqueeze(1).expand_as(pairs))
    return torch.cat([nodes.flatten(1), pairs.flatten(1), whole], 1), order


def _renamed_logits(dag: _Graphs, logits: Tensor, order: Tensor, node_actions: int, pair_actions: int) -> Tensor:
    pairs = _pairs_in_order(dag.slots, dag.ordered)
    place: dict[tuple[int, int], int] = {}
    for p, (i, j) in enumerate(pairs):
        place[i, j] = p
        if not dag.ordered:
            place[j, i] = p
    rows = []
    for row, new in zip(logits, order.tolist(), strict=True):
        columns = [slot * node_actions + a for slot in new for a in range(node_actions)]
        start = dag.slots * node_actions
        columns += [start + place[new[i], new[j]] * pair_actions + a for i, j in pairs for a in range(pair_actions)]
        rows.append(row[[*columns, logits.shape[1] - 1]])
    return torch.stack(rows)


@pytest.mark.parametrize("ordered", ORDERED)
def test_renaming_slots_renames_the_logits_and_leaves_the_rest(ordered: bool) -> None:
    dag, network = _Graphs(ordered), _network(ordered)
    states = dag.states()
    renamed, order = _renamed(dag, states, seed=1)
    assert (renamed != states).any(1).float().mean() > 0.4
    expected = _outputs(network, states)
    expected["forward"] = _renamed_logits(dag, expected["forward"], order, 3, 2)
    expected["backward"] = _renamed_logits(dag, expected["backward"], order, 1, 4)
    _close(_outputs(network, renamed), expected)


def test_an_ordered_pair_differs_from_its_reverse() -> None:
    dag, network = _Graphs(True), _network(True)
    states = dag.states()[dag.sizes(dag.states()) == SLOTS]
    pairs = _outputs(network, states)["forward"][:, SLOTS * 3 : -1].view(-1, SLOTS, SLOTS, 2)
    assert float((pairs - pairs.transpose(1, 2)).detach().abs().mean()) > 0.05


@pytest.mark.parametrize("ordered", ORDERED)
def test_what_stands_in_empty_slots_does_not_matter(ordered: bool) -> None:
    dag, network = _Graphs(ordered), _network(ordered)
    states = dag.states()
    nodes, pairs, whole = (part.clone() for part in dag.graph(states))
    filled = nodes[:, :, 0] != 0
    nodes[~filled] = 0
    pairs *= filled.unsqueeze(1) & filled.unsqueeze(2)
    clean = torch.cat([nodes.flatten(1), pairs.flatten(1), whole], 1)
    assert (clean != states).any(1).float().mean() > 0.5
    _close(_outputs(network, clean), _outputs(network, states))


@pytest.mark.parametrize("ordered", ORDERED)
def test_a_state_is_answered_alone_as_in_company(ordered: bool) -> None:
    dag, network = _Graphs(ordered), _network(ordered)
    states = dag.states()
    alone = [_outputs(network, state) for state in states.split(1)]
    _close(_outputs(network, states), {name: torch.cat([row[name] for row in alone]) for name in HEADS})


@pytest.mark.parametrize("ordered", ORDERED)
@pytest.mark.parametrize("limits", [(0, 1), (0, 10**6), (7, 20), (10**6, 10**6), "one padded pass"])
def test_outputs_and_gradients_are_the_same_however_rows_are_put_together(
    ordered: bool, limits: tuple[int, int] | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dag, network = _Graphs(ordered), _network(ordered)
    states = dag.states()

    def run() -> tuple[dict[str, Tensor], list[Tensor]]:
        outputs = _outputs(network, states)
        total = sum(((i + 1) * x).sin().sum() for i, x in enumerate(outputs.values()))
        return outputs, list(torch.autograd.grad(total, list(network.parameters())))  # type: ignore[arg-type]

    expected, gradients = run()
    if isinstance(limits, str):
        monkeypatch.setattr(graph_transformer, "host_is_free", lambda device: False)
    else:
        monkeypatch.setattr(graph_transformer, "_PADDING_TOKENS", limits[0])
        monkeypatch.setattr(graph_transformer, "_PASS_TOKENS", limits[1])
    outputs, others = run()
    _close(outputs, expected)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_passes_cover_every_row_once_and_pad_little() -> None:
    dag = _Graphs(False, slots=9)
    for n in (1, 7, 100, 3000):
        nodes, _, _ = dag.graph(dag.states(n))
        sizes = (nodes[:, :, 0] != 0).sum(1)
        order, passes = _plan(nodes)
        assert sorted(order.tolist()) == list(range(n))
        assert [start for start, _, _ in passes] == [0, *(stop for _, stop, _ in passes[:-1])]
        assert passes[-1][1] == n
        for start, stop, size in passes:
            assert int(sizes[order][start:stop].max()) <= size
            assert (stop - start) * (1 + size) <= graph_transformer._PASS_TOKENS
            assert int((size - sizes[order][start:stop]).sum()) <= graph_transformer._PADDING_TOKENS


def test_sizes_share_a_pass_while_that_pads_few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_transformer, "_PADDING_TOKENS", 17)
    assert _merged([5, 0, 2, 100]) == [(0, 107, 3)]  # 5 rows by 3 tokens and 2 rows by 1
    assert _merged([5, 0, 3, 100]) == [(0, 8, 2), (8, 108, 3)]
    assert _merged([0, 9, 1, 0, 0, 1]) == [(0, 10, 2), (10, 11, 5)]


def test_no_states_have_no_outputs() -> None:
    states = _Graphs(True).states(1)[:0]
    assert [len(x) for x in _outputs(_network(True), states).values()] == [0, 0, 0, 0]


# --- What is seen -----------------------------------------------------------------------------------------------------


def _unlabelled(graphs: list[nx.Graph], slots: int) -> Tensor:
    """Return states whose nodes and pairs all look alike: only the shape of the graph tells them apart."""
    pairs = torch.zeros(len(graphs), slots, slots, dtype=torch.int64)
    nodes = torch.zeros(len(graphs), slots, FEATURES, dtype=torch.int64)
    for b, graph in enumerate(graphs):
        nodes[b, : len(graph), 0] = 1
        for i, j in nx.convert_node_labels_to_integers(graph).edges:
            pairs[b, i, j] = pairs[b, j, i] = 1
    return torch.cat([nodes.flatten(1), pairs.flatten(1), torch.zeros(len(graphs), WHOLE, dtype=torch.int64)], 1)


def test_graphs_of_equal_degrees_are_told_apart_by_their_rings() -> None:
    two_rings = nx.disjoint_union(nx.cycle_graph(3), nx.cycle_graph(3))
    tailed = [nx.Graph([*nx.cycle_graph(n).edges, (0, n), *((k, k + 1) for k in range(n, 7))]) for n in (3, 4, 5, 6)]
    graphs = [nx.cycle_graph(6), two_rings, nx.circular_ladder_graph(3), nx.complete_bipartite_graph(3, 3), *tailed]
    assert len({tuple(sorted(d for _, d in graph.degree)) for graph in tailed}) == 1
    states = _unlabelled(graphs, 8)
    # Two graphs may have almost one flow by chance, but not in each of three networks.
    flows = torch.stack([_network(False, seed, slots=8)(states).log_flow.detach() for seed in range(3)], 1)
    apart = (flows.unsqueeze(0) - flows.unsqueeze(1)).abs().amax(2)
    assert float((apart + torch.eye(len(flows))).min()) > 1e-3


def test_all_graphs_of_up_to_seven_nodes_are_told_apart() -> None:
    graphs = nx.graph_atlas_g()
    flows = _network(False, slots=7)(_unlabelled(graphs, 7)).log_flow.detach()
    assert len(flows) == 1253
    assert float(flows.sort().values.diff().min()) > 1e-9


@pytest.mark.parametrize("ordered", ORDERED)
def test_every_part_of_a_graph_is_seen(ordered: bool) -> None:
    dag, network = _Graphs(ordered), _network(ordered)
    state = dag.states()[dag.sizes(dag.states()) == SLOTS][:1]
    nodes, pairs, whole = dag.graph(state)
    changed = []
    for column, values in ((0, 2), (1, 3)):
        other = whole.clone()
        other[0, column] = (other[0, column] + 1) % values
        changed.append((nodes, pairs, other))
    other = nodes.clone()
    other[0, 0, 1] = (other[0, 0, 1] + 1) % 3
    changed.append((other, pairs, whole))
    for i, j in ((0, 1), (4, 3)):
        other = pairs.clone()
        other[0, i, j] = (other[0, i, j] + 1) % VALUES[ordered]
        other[0, j, i] = other[0, j, i] if ordered else other[0, i, j]
        changed.append((nodes, other, whole))
    flows = network(torch.cat([state, *(torch.cat([x.flatten(1) for x in parts], 1) for parts in changed)])).log_flow
    assert float((flows[1:] - flows[0]).detach().abs().min()) > 1e-4


# --- As a network -----------------------------------------------------------------------------------------------------


def test_attention_has_the_gradient_of_its_formula() -> None:
    torch.manual_seed(0)
    sizes = [(3, 4, 3 * 6), (2, 3, 4, 4), (2, 3, 4, 4)]
    inputs = [torch.randn(size, dtype=torch.float64) for size in sizes]
    inputs[1][:, :, :, 3] = -torch.inf
    for x in (inputs[0], inputs[2]):
        x.requires_grad_()
    assert torch.autograd.gradcheck(_Attention.apply, inputs)
    inputs[1] = torch.randn(sizes[1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(_Attention.apply, inputs)


@pytest.mark.parametrize("ordered", ORDERED)
@pytest.mark.parametrize("shared_torso", [True, False])
@pytest.mark.parametrize("heads", [tuple(HEADS), ("forward",), ("backward", "count")])
def test_gradients_reach_exactly_the_parameters_of_the_heads_used(
    heads: tuple[str, ...], shared_torso: bool, ordered: bool
) -> None:
    network = _network(ordered, shared_torso=shared_torso)
    total = sum(_outputs(network, _Graphs(ordered).states())[head].square().sum() for head in heads)
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)  # type: ignore[arg-type]
    read = {id(p) for p, g in zip(parameters, gradients, strict=True) if g is not None}
    assert all(bool((g != 0).any()) for g in gradients if g is not None)
    assert {id(p) for p in network.parameters_of(*heads)} == read
    if heads == tuple(HEADS):
        assert read == {id(p) for p in parameters}


@pytest.mark.parametrize("ordered", ORDERED)
@pytest.mark.parametrize("shared_torso", [True, False])
def test_the_backward_policy_starts_uniform_only_if_asked_and_can_leave(ordered: bool, shared_torso: bool) -> None:
    states = _Graphs(ordered).states()
    for asked in (True, False):
        network = _network(ordered, shared_torso=shared_torso)
        if asked:
            network.zero("backward")
        outputs = _outputs(network, states)
        assert bool((outputs["backward"] == 0).all()) is asked
        for name in ("forward", "flow", "count"):
            assert float(outputs[name].detach().std()) > 0.01, name
        (outputs["backward"] - torch.randn_like(outputs["backward"])).square().sum().backward()
        with torch.no_grad():
            for p in network.parameters():
                p -= 1e-3 * (p.grad if p.grad is not None else 0)
        moved = _outputs(network, states)["backward"]
        moved = moved.detach()
        assert float(moved[:, :SLOTS].std()) > 0
        assert float(moved[:, SLOTS:-1].std()) > 0
        assert float(moved[:, -1].std()) > 0


@pytest.mark.parametrize("ordered", ORDERED)
@pytest.mark.parametrize("gradient", [True, False])
def test_it_runs_where_no_value_can_be_read(ordered: bool, gradient: bool) -> None:
    network, states = _network(ordered, device="meta"), _Graphs(ordered).states(5).to("meta")
    assert all(p.is_meta for p in network.parameters())
    with torch.set_grad_enabled(gradient):
        outputs = _outputs(network, states)
    here = _outputs(_network(ordered), _Graphs(ordered).states(5))
    for name, x in outputs.items():
        assert x.is_meta, name
        assert x.shape == here[name].shape
        assert x.requires_grad is gradient
    if gradient:
        torch.stack([x.sum() for x in outputs.values()]).sum().backward()
        assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize("ordered", ORDERED)
@pytest.mark.parametrize("shared_torso", [True, False])
def test_the_sampler_says_what_the_forward_head_says(ordered: bool, shared_torso: bool) -> None:
    network, states = _network(ordered, shared_torso=shared_torso), _Graphs(ordered).states()
    expected = network(states).forward_logits
    with torch.no_grad():
        torch.testing.assert_close(network.sampler(0.7)(states), 0.7 * expected)


def test_a_slow_copy_says_the_same_and_does_not_copy_the_dag(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the DAG was copied")

    monkeypatch.setattr(_Graphs, "__deepcopy__", refuse, raising=False)
    network, states = _network(False), _Graphs(False).states()
    _close(_outputs(Target(network, 0.5).copy, states), _outputs(network, states))
    _close(_outputs(copy.deepcopy(network), states), _outputs(network, states))


@pytest.mark.parametrize(("width", "layers"), [(8, 1), (16, 3)])
def test_width_and_layers_set_the_size(width: int, layers: int) -> None:
    # A layer: queries, keys, values and output; a feed-forward part of 4 * width; two norms.
    layer = 4 * width**2 + 8 * width**2 + 4 * width
    torso = _network(False, width=width, layers=layers).torsos["shared"]
    assert sum(p.numel() for p in torso.layers.parameters()) == layers * layer


def test_equal_seeds_give_equal_weights_and_others_others() -> None:
    one, two, other = (torch.cat([p.flatten() for p in _network(True, seed).parameters()]) for seed in (3, 3, 4))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(("width", "attention_heads"), [(16, 3), (8, 16)])
def test_attention_heads_that_do_not_divide_the_width_are_named(width: int, attention_heads: int) -> None:
    message = f"--network.width must be a multiple of --network.attention-heads, got {width}, {attention_heads}"
    with pytest.raises(ValueError, match=message):
        _network(False, width=width, attention_heads=attention_heads)
