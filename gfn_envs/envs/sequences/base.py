"""Words over an alphabet, written in one of several orders: the same objects and rewards through different DAGs."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gfn_envs.dag import DAG
from gfn_envs.envs.sequences.orders import ORDERS
from gfn_envs.envs.sequences.table import Table
from gfn_envs.errors import choose, integer_at_least
from gfn_envs.rewards import IN_PROCESS, Asking, Texts, own_reward
from gfn_envs.views import TokenView

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_WORDS_AT_A_TIME = 2**15


class SequenceDAG(DAG):
    """Words of `length` letters. A state is int64 `[B, length]`: 0 where a place is empty, elsewhere 1 + letter.

    Terminal states, the words without an empty place, are the same in every order. Unless `order="any"`, the letters
    of an unfinished word stand at its first places. The module `gfn_envs.envs.sequences.orders` has the orders.

    Args:
        alphabet: the letters; a letter may be a text of several characters.
        length: number of places, at least 1.
        order: `"any"`, `"prepend_append"`, `"left_to_right"` or `"insert"`.
        reward: the name of a built-in reward, a callable, or a callable named as `"module:function"`.
        built_in: the names of the built-in rewards.
        reward_input: what a callable takes: `"words"`, a list of words as `SequenceDAG.words` writes them, `"states"`,
            int64 `[n, length]` on the DAG's device, or one of `more_inputs`.
        more_inputs: other values of `reward_input`, and what writes states for them.
        asking: how a callable is asked.
        device: where its tensors live.
    """

    empty = "."
    """How an empty place is written."""
    separator = ""
    """What stands between the letters of a written word."""

    def __init__(
        self,
        alphabet: Sequence[str],
        length: int,
        order: str,
        reward: str | Callable[..., Any],
        built_in: Sequence[str],
        reward_input: str,
        more_inputs: Mapping[str, Texts] | None = None,
        asking: Asking = IN_PROCESS,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(device)
        self.alphabet, self.length = tuple(alphabet), integer_at_least("length", length, 1)
        most = int(63 / math.log2(len(self.alphabet))) if len(self.alphabet) > 1 else self.length
        if self.length > most:
            raise ValueError(f"length must be at most {most}, as words are numbered with 63 bits, got {length!r}.")
        self.order = order
        self._order = choose("order", order, ORDERS)(self.length, len(self.alphabet), self.device)
        self.nvec = (len(self.alphabet) + 1,) * self.length
        self.num_actions, self.num_backward_actions = self._order.num_actions, self._order.num_backward_actions
        self.max_steps = self.length
        inputs = {"words": self.words, "states": None, **(more_inputs or {})}
        texts = choose("reward_input", reward_input, inputs)
        self.own_reward = own_reward(self, reward, built_in, texts, "words", asking)
        powers = [len(self.alphabet) ** place for place in reversed(range(self.length))]
        self._powers = torch.tensor(powers, dtype=torch.int64, device=self.device)

    @abstractmethod
    def built_in_log_reward(self, states: Tensor) -> Tensor:
        """Return log R of terminal `states [B, length]` by the built-in reward, float32 `[B]`, finite elsewhere too."""

    @cached_property
    def table(self) -> Table:
        """The target over all words; it asks about each of them, and so waits for the device."""
        words = torch.arange(len(self.alphabet) ** self.length, device=self.device).split(_WORDS_AT_A_TIME)
        log_rewards = torch.cat([self.log_reward(self.from_index(part)) for part in words])
        return Table(log_rewards.double(), self.device)

    def reset(self, n: int) -> Tensor:
        return torch.zeros(n, self.length, dtype=torch.int64, device=self.device)

    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        return self._order.step(states, actions)

    def backward_step(self, states: Tensor, backward_actions: Tensor) -> tuple[Tensor, Tensor]:
        return self._order.backward_step(states, backward_actions)

    def action_mask(self, states: Tensor) -> Tensor:
        return self._order.action_mask(states)

    def backward_action_mask(self, states: Tensor) -> Tensor:
        return self._order.backward_action_mask(states)

    def is_terminal(self, states: Tensor) -> Tensor:
        return (states > 0).all(1)

    def log_reward(self, states: Tensor) -> Tensor:
        return self.built_in_log_reward(states) if self.own_reward is None else self.own_reward(states).log()

    def log_num_trajectories(self, states: Tensor) -> Tensor:
        """Return log n(s), float32 `[B]`, by the order of writing."""
        return self._order.log_num_trajectories(states)

    def token_view(self) -> TokenView:
        """Return the places as tokens."""
        return self._order.token_view()

    def index(self, states: Tensor) -> Tensor:
        """Return where terminal `states [B, length]` stand among all words in alphabetical order, int64 `[B]`."""
        return ((states - 1).clamp(min=0) * self._powers).sum(1)

    def from_index(self, index: Tensor) -> Tensor:
        """Return the words at places `index [B]` of the alphabetical order, terminal states `[B, length]`."""
        digits = torch.div(index.unsqueeze(1), self._powers, rounding_mode="floor")
        return digits % len(self.alphabet) + 1

    def words(self, states: Tensor) -> list[str]:
        """Return `states [B, length]` as texts, complete or not."""
        letters = (self.empty, *self.alphabet)
        rows = states.tolist() if self.order == "any" else [[x for x in row if x] for row in states.tolist()]
        return [self.separator.join(letters[x] for x in row) for row in rows]

    def from_words(self, words: Sequence[str]) -> Tensor:
        """Return the terminal states `[N, length]` of complete words; `ValueError` for what is none."""
        if isinstance(words, str) or not isinstance(words, Sequence):
            raise ValueError(f"words must be a list of texts, got {words!r}.")
        values = {letter: 1 + i for i, letter in enumerate(self.alphabet)}
        rows = []
        for word in words:
            letters = word.split(self.separator) if self.separator else list(word)
            if len(letters) != self.length or set(letters) - set(self.alphabet):
                known = ", ".join(self.alphabet)
                raise ValueError(f"a word has {self.length} letters out of {known}; got {word!r}.")
            rows.append([values[letter] for letter in letters])
        return torch.tensor(rows, dtype=torch.int64, device=self.device).view(len(rows), self.length)

    def describe(self, states: Tensor) -> list[str]:
        return [text or "(empty)" for text in self.words(states)]

    def draw(self, path: Tensor, axes: Axes) -> None:
        """Draw the words of the path as rows of letters, a colour each, the first state at the top."""
        rows = path.cpu()
        shades = torch.where(rows > 0, rows.float(), torch.nan)  # empty places stay white
        axes.imshow(shades.numpy(), aspect="auto", cmap="Set3", vmin=1, vmax=max(len(self.alphabet), 12))
        for row, word in enumerate(rows.tolist()):
            for place, value in enumerate(word):
                if value:
                    axes.text(place, row, self.alphabet[value - 1], ha="center", va="center", fontsize=8)
        axes.locator_params(integer=True, min_n_ticks=1)
        axes.set_xlabel("place")
        axes.set_ylabel("step")
