"""The orders of writing a word, against plain Python on strings, and a reward of one's own on words."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from gfn_envs import check_dag, enumerate_dag
from gfn_envs.envs.sequences.base import SequenceDAG
from gfn_envs.envs.sequences.orders import ORDERS
from gfn_envs.envs.sequences.table import separated_best


class Words(SequenceDAG):
    """Words over A, B, C or fewer letters; R = 1 + the place in the alphabetical order."""

    def __init__(
        self,
        length: int = 4,
        letters: int = 2,
        order: str = "any",
        reward: str | Callable = "place",
        reward_input: str = "words",
        device: str = "cpu",
    ) -> None:
        super().__init__("ABC"[:letters], length, order, reward, ["place"], reward_input, device=device)

    def built_in_log_reward(self, states: Tensor) -> Tensor:
        return (1 + self.index(states)).float().log()


Writer = Callable[[str, int, str], list[str]]

# For each order, the words that arise from a word of at most n letters over an alphabet, one for every edge.
NEXT: dict[str, Writer] = {
    "any": lambda word, n, alphabet: [
        word[:i] + letter + word[i + 1 :] for i in range(n) if word[i] == "." for letter in alphabet
    ],
    "left_to_right": lambda word, n, alphabet: [word + letter for letter in alphabet] if len(word) < n else [],
    "prepend_append": lambda word, n, alphabet: (
        [each for letter in alphabet for each in ({letter} if not word else (word + letter, letter + word))]
        if len(word) < n
        else []
    ),
    "insert": lambda word, n, alphabet: (
        sorted({word[:i] + letter + word[i:] for i in range(len(word) + 1) for letter in alphabet})
        if len(word) < n
        else []
    ),
}
SIZES = [(1, 1), (1, 3), (2, 2), (4, 2), (3, 3), (5, 2)]


def plain_edges(order: str, n: int, alphabet: str) -> dict[str, list[str]]:
    """Return the words after each word that can be written."""
    edges: dict[str, list[str]] = {}
    todo = ["." * n if order == "any" else ""]
    while todo:
        word = todo.pop()
        if word not in edges:
            edges[word] = NEXT[order](word, n, alphabet)
            todo += edges[word]
    return edges


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("n", "letters"), SIZES)
def test_the_edges_are_those_of_plain_strings(order: str, n: int, letters: int) -> None:
    dag = Words(n, letters, order)
    exact = enumerate_dag(dag)
    words = dag.words(exact.states)
    found: dict[str, list[str]] = {word: [] for word in words}
    for parent, child in zip(exact.parents.tolist(), exact.children.tolist(), strict=True):
        found[words[parent]].append(words[child])
    wanted = plain_edges(order, n, "ABC"[:letters])
    assert {word: sorted(after) for word, after in found.items()} == {
        word: sorted(after) for word, after in wanted.items()
    }


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("n", "letters"), SIZES)
def test_numbers_of_trajectories_equal_counting(order: str, n: int, letters: int) -> None:
    dag = Words(n, letters, order)
    exact = enumerate_dag(dag)
    counts = torch.zeros(exact.num_states, dtype=torch.float64)
    counts[0] = 1
    for parent, child in sorted(zip(exact.parents.tolist(), exact.children.tolist(), strict=True)):
        counts[child] += counts[parent]
    torch.testing.assert_close(dag.log_num_trajectories(exact.states), counts.log().float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("n", "letters"), [(1, 1), (1, 3), (4, 2), (3, 3), (7, 3)])
def test_the_law_holds(order: str, n: int, letters: int) -> None:
    check_dag(Words(n, letters, order), num_trajectories=32)
    check_dag(Words(n, letters, order, device="meta"))


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_writes_the_same_words_with_the_same_rewards(order: str) -> None:
    dag = Words(4, 3, order)
    exact = enumerate_dag(dag)
    states = exact.states[exact.terminal]
    index = dag.index(states)
    assert sorted(index.tolist()) == list(range(3**4))
    assert torch.equal(dag.from_index(index), states)
    alphabetical = ["".join(letters) for letters in itertools.product("ABC", repeat=4)]
    assert dag.words(states) == [alphabetical[i] for i in index]
    assert torch.equal(dag.from_words(dag.words(states)), states)
    assert exact.log_z == pytest.approx(math.log(81 * 82 / 2), abs=1e-6)


def test_letters_of_an_unfinished_word_stand_first_unless_any_place_will_do() -> None:
    for order in set(ORDERS) - {"any"}:
        states = enumerate_dag(Words(4, 2, order)).states
        assert bool(((states[:, :-1] > 0) | (states[:, 1:] == 0)).all())


def test_actions_are_the_documented_ones() -> None:
    def go(order: str, *actions: int) -> str:
        dag = Words(3, 3, order)
        state = dag.reset(1)
        for action in actions:
            assert dag.action_mask(state)[0, action]
            state = dag.step(state, torch.tensor([action]))[0]
        return dag.words(state)[0]

    assert go("any", 2 * 3 + 1, 0 * 3 + 2) == "C.B"
    assert go("left_to_right", 2, 0) == "CA"
    assert go("prepend_append", 2, 0, 3 + 1) == "BCA"
    assert go("insert", 2, 0 * 3 + 1, 1 * 3 + 0) == "BAC"


def test_ends_of_a_word_of_one_repeated_letter_are_two_edges() -> None:
    dag = Words(3, 2, "prepend_append")
    state = dag.from_words(["AAA"]) * torch.tensor([1, 1, 0])
    appended, prepended = (dag.step(state, torch.tensor([action])) for action in (0, 2))
    assert torch.equal(appended[0], prepended[0])
    assert (appended[1].item(), prepended[1].item()) == (0, 1)
    assert dag.backward_action_mask(appended[0]).tolist() == [[True, True]]


def test_a_letter_is_inserted_before_equal_ones_only() -> None:
    dag = Words(5, 2, "insert")
    state = torch.tensor([[1, 1, 2, 0, 0]])  # AAB
    mask = dag.action_mask(state).view(5, 2).tolist()
    assert mask == [[True, True], [False, True], [False, True], [True, False], [False, False]]
    assert dag.backward_action_mask(state).tolist() == [[True, False, True, False, False]]


@pytest.mark.parametrize("order", ORDERS)
def test_the_token_view_names_the_places_where_actions_have_one(order: str) -> None:
    view = Words(4, 3, order).token_view()
    placed = order in ("any", "insert")
    assert (view.length, view.vocabulary, view.values, view.places) == (4, 4, 3 if placed else 0, placed)


@pytest.mark.parametrize("order", ORDERS)
def test_a_reward_of_ones_own_is_asked_about_complete_words(order: str) -> None:
    asked: list[str] = []

    def vowels(words: list[str]) -> list[int]:
        asked.extend(words)
        return [1 + word.count("A") for word in words]

    dag = Words(3, 3, order, reward=vowels)
    check_dag(dag)
    exact = enumerate_dag(dag)
    assert sorted(asked) == sorted("".join(letters) for letters in itertools.product("ABC", repeat=3))
    assert exact.log_z == pytest.approx(math.log(27 + 27), abs=1e-6)  # a third of 81 letters are A
    assert dag.table.log_z == pytest.approx(exact.log_z, abs=1e-6)


def test_a_reward_of_ones_own_can_take_states() -> None:
    dag = Words(3, 2, reward=lambda states: states.sum(1), reward_input="states")
    assert dag.log_reward(torch.tensor([[1, 2, 2]])).exp().item() == pytest.approx(5)


def test_a_table_is_sampled_in_proportion_to_its_rewards() -> None:
    dag = Words(3, 2)
    n = 20_000
    index = dag.table.sample(n, torch.Generator().manual_seed(1))
    wanted = torch.arange(1, 9) / 36 * n
    chi_square = float(((torch.bincount(index, minlength=8) - wanted) ** 2 / wanted).sum())
    assert chi_square < 24.3  # exceeded once in a thousand times at 7 degrees of freedom


def test_the_best_words_are_taken_greedily_and_apart() -> None:
    rewards = torch.randint(0, 20, (3**4,), generator=torch.Generator().manual_seed(0)).numpy()
    words = ["".join(letters) for letters in itertools.product("ABC", repeat=4)]
    chosen: list[int] = []
    for word in sorted(range(81), key=lambda word: (-rewards[word], word)):
        if all(sum(a != b for a, b in zip(words[word], words[mode], strict=True)) > 1 for mode in chosen):
            chosen.append(word)
    assert separated_best(rewards, 4, 3, 1000).tolist() == chosen
    assert separated_best(rewards, 4, 3, 7).tolist() == chosen[:7]


@pytest.mark.parametrize("order", ORDERS)
def test_words_are_drawn_and_described(order: str) -> None:
    dag, axes = Words(3, 2, order), Figure().subplots()
    path = torch.tensor([[0, 0, 0], [2, 0, 0], [2, 1, 0]])
    dag.draw(path, axes)
    assert [text.get_text() for text in axes.texts] == ["B", "B", "A"]
    assert dag.describe(path) == (["...", "B..", "BA."] if order == "any" else ["(empty)", "B", "BA"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Words(0), "length must be an integer of at least 1, got 0"),
        (lambda: Words(order="inset"), "Unknown order 'inset'. Known, closest first: insert, "),
        (lambda: Words(reward="plaice"), "Unknown reward 'plaice'. Known, closest first: place, module:function"),
        (lambda: Words(reward_input="letters"), "Unknown reward_input 'letters'"),
        (lambda: Words(3).from_words(["ABA", "ABCA"]), "a word has 3 letters out of A, B; got 'ABCA'"),
        (lambda: Words(3).from_words(["ABC"]), "a word has 3 letters out of A, B; got 'ABC'"),
        (lambda: Words(3).from_words("ABA"), "words must be a list of texts, got 'ABA'"),
    ],
)
def test_bad_arguments_are_named_with_their_value(call: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
