"""The orders in which a word can be written: one set of words, four DAGs.

Source: any place and left to right as for bit strings, Tiapkin et al. 2024 (arXiv 2310.12934), Malkin et al. 2022
(arXiv 2201.13259); prepend or append and insert: Shen et al. 2023 (arXiv 2305.07170).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch import Tensor

from gfn_envs.views import TokenView

_SUBWORDS_AT_A_TIME = 2**21


class Order(ABC):
    """How words of `length` places over `letters` letters are written, from the empty word on, a letter a step.

    States are int64 `[B, length]`, 0 where a place is empty and 1 + letter elsewhere. Where the actions are tied to
    places, a forward action is `place * letters + letter` and a backward action is a place.

    Args:
        length: number of places.
        letters: number of letters.
        device: where the states live.
    """

    num_actions: int
    num_backward_actions: int
    tied_to_places: bool

    def __init__(self, length: int, letters: int, device: torch.device) -> None:
        self.length, self.letters = length, letters
        self._places = torch.arange(length, device=device)

    @abstractmethod
    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Write a letter; return what `DAG.step` returns."""

    @abstractmethod
    def backward_step(self, states: Tensor, backward_actions: Tensor) -> tuple[Tensor, Tensor]:
        """Take a letter away; return what `DAG.backward_step` returns."""

    @abstractmethod
    def action_mask(self, states: Tensor) -> Tensor:
        """Return bool `[B, num_actions]`, True where the action is legal."""

    @abstractmethod
    def backward_action_mask(self, states: Tensor) -> Tensor:
        """Return bool `[B, num_backward_actions]`, True where the backward action is legal."""

    @abstractmethod
    def log_num_trajectories(self, states: Tensor) -> Tensor:
        """Return log n(s), float32 `[B]`."""

    def token_view(self) -> TokenView:
        """Return the places as tokens."""
        values = self.letters if self.tied_to_places else 0
        return TokenView(self.length, self.letters + 1, values, places=self.tied_to_places)

    def _split(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return place (or end) and letter of each action, int64 `[B, 1]` both."""
        places = torch.div(actions, self.letters, rounding_mode="floor")
        return places.unsqueeze(1), (actions - places * self.letters).unsqueeze(1)


def written(states: Tensor) -> Tensor:
    """Return the number of letters of `states [B, L]`, int64 `[B, 1]`."""
    return (states > 0).sum(1, keepdim=True)


class AnyPlace(Order):
    """Actions write a letter at an empty place; backward actions empty a place."""

    tied_to_places = True

    def __init__(self, length: int, letters: int, device: torch.device) -> None:
        super().__init__(length, letters, device)
        self.num_actions, self.num_backward_actions = length * letters, length

    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        places, letters = self._split(actions)
        return states.scatter(1, places, letters + 1), places.squeeze(1)

    def backward_step(self, states: Tensor, backward_actions: Tensor) -> tuple[Tensor, Tensor]:
        places = backward_actions.unsqueeze(1)
        letters = (states.gather(1, places) - 1).clamp(min=0)
        return states.scatter(1, places, 0), (places * self.letters + letters).squeeze(1)

    def action_mask(self, states: Tensor) -> Tensor:
        return (states == 0).repeat_interleave(self.letters, 1)

    def backward_action_mask(self, states: Tensor) -> Tensor:
        return states > 0

    def log_num_trajectories(self, states: Tensor) -> Tensor:
        """Return the log of k!, k the number of letters: they may come in any order."""
        return torch.lgamma(written(states).squeeze(1).float() + 1)


class LeftToRight(Order):
    """Actions append a letter; the backward action 0 takes the last one away."""

    tied_to_places = False

    def __init__(self, length: int, letters: int, device: torch.device) -> None:
        super().__init__(length, letters, device)
        self.num_actions, self.num_backward_actions = letters, 1

    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        end = written(states).clamp(max=self.length - 1)
        return states.scatter(1, end, actions.unsqueeze(1) + 1), torch.zeros_like(actions)

    def backward_step(self, states: Tensor, backward_actions: Tensor) -> tuple[Tensor, Tensor]:
        last = (written(states) - 1).clamp(min=0)
        return states.scatter(1, last, 0), (states.gather(1, last) - 1).clamp(min=0).squeeze(1)

    def action_mask(self, states: Tensor) -> Tensor:
        return (states[:, -1:] == 0).repeat(1, self.letters)

    def backward_action_mask(self, states: Tensor) -> Tensor:
        return states[:, :1] > 0

    def log_num_trajectories(self, states: Tensor) -> Tensor:
        """Return 0: a tree has one way to each word."""
        return torch.zeros(len(states), device=states.device)


class PrependAppend(Order):
    """Actions `letter` append it, `letters + letter` prepend it; backward 0 takes the last away, 1 the first.

    A first letter is appended. In a word of one repeated letter both ends give the same word: these are two edges.
    """

    tied_to_places = False

    def __init__(self, length: int, letters: int, device: torch.device) -> None:
        super().__init__(length, letters, device)
        self.num_actions, self.num_backward_actions = 2 * letters, 2

    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        first, letters = self._split(actions)
        appended = states.scatter(1, written(states).clamp(max=self.length - 1), letters + 1)
        prepended = torch.cat([letters + 1, states[:, :-1]], 1)
        return torch.where(first > 0, prepended, appended), first.squeeze(1)

    def backward_step(self, states: Tensor, backward_actions: Tensor) -> tuple[Tensor, Tensor]:
        first, last = backward_actions.unsqueeze(1), (written(states) - 1).clamp(min=0)
        shortened = torch.cat([states[:, 1:], torch.zeros_like(states[:, :1])], 1)
        previous = torch.where(first > 0, shortened, states.scatter(1, last, 0))
        letters = torch.where(first > 0, states[:, :1], states.gather(1, last)) - 1
        return previous, (first * self.letters + letters.clamp(min=0)).squeeze(1)

    def action_mask(self, states: Tensor) -> Tensor:
        room = states[:, -1:] == 0
        return torch.cat([room, room & (states[:, :1] > 0)], 1).repeat_interleave(self.letters, 1)

    def backward_action_mask(self, states: Tensor) -> Tensor:
        return torch.stack([states[:, 0] > 0, written(states)[:, 0] > 1], 1)

    def log_num_trajectories(self, states: Tensor) -> Tensor:
        """Return the log of 2^(k - 1), k >= 1 the number of letters: each but the first at either end."""
        k = written(states).squeeze(1)
        return (k - 1).clamp(min=0).float() * math.log(2)


class Insert(Order):
    """Actions write a letter before the letter at a place, or behind the last; backward actions take one away.

    A letter next to equal ones can be inserted at several places with one result. It is inserted before all of them,
    and the first of them is taken away, so that every parent has one edge: parents are the runs of equal letters.
    """

    tied_to_places = True

    def __init__(self, length: int, letters: int, device: torch.device) -> None:
        super().__init__(length, letters, device)
        self.num_actions, self.num_backward_actions = length * letters, length
        self._values = torch.arange(1, letters + 1, device=device)

    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        places, letters = self._split(actions)
        shifted = torch.where(self._places > places, states.roll(1, 1), states)
        return shifted.scatter(1, places, letters + 1), places.squeeze(1)

    def backward_step(self, states: Tensor, backward_actions: Tensor) -> tuple[Tensor, Tensor]:
        places = backward_actions.unsqueeze(1)
        letters = (states.gather(1, places) - 1).clamp(min=0)
        next_ones = torch.cat([states[:, 1:], torch.zeros_like(states[:, :1])], 1)
        previous = torch.where(self._places >= places, next_ones, states)
        return previous, (places * self.letters + letters).squeeze(1)

    def action_mask(self, states: Tensor) -> Tensor:
        left = _left(states)
        other = left.unsqueeze(2) != self._values
        return (other & ((left != 0) & (states[:, -1:] == 0)).unsqueeze(2)).flatten(1)

    def backward_action_mask(self, states: Tensor) -> Tensor:
        return (states > 0) & (states != _left(states))

    def log_num_trajectories(self, states: Tensor) -> Tensor:
        """Return the log of the number of chains of words that lose a letter each, down to the empty word.

        It is counted over the `2^L` subwords of each word, those of few letters first.
        """
        rows = max(1, _SUBWORDS_AT_A_TIME >> self.length)
        return torch.cat([self._counted(part) for part in states.split(rows)]).log().float()

    def _counted(self, states: Tensor) -> Tensor:
        """Return n(s), float64 `[B]`."""
        padded = torch.cat([states, torch.full_like(states[:, :1], -1)], 1)
        counts = torch.ones(len(states), 1 << self.length, dtype=torch.float64, device=states.device)
        for subwords, places, before, shorter in self._levels:
            starts_run = padded[:, places] != padded[:, before]
            counts[:, subwords] = torch.where(starts_run, counts[:, shorter], 0.0).sum(2)
        whole = (1 << written(states)) - 1
        return counts.gather(1, whole).squeeze(1)

    @cached_property
    def _levels(self) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """For k = 1, 2 ...: subwords of k places as bit sets `[N]`, their places `[N, k]`, for each the place of the
        subword before it (`length` for none), and the subword without it."""
        bits, device = 1 << torch.arange(self.length), self._places.device
        subwords = torch.arange(1 << self.length)
        sizes = (subwords.unsqueeze(1) & bits > 0).sum(1)
        levels = []
        for k in range(1, self.length + 1):
            some = subwords[sizes == k]
            places = (some.unsqueeze(1) & bits).nonzero()[:, 1].view(len(some), k)
            before = torch.cat([torch.full_like(places[:, :1], self.length), places[:, :-1]], 1)
            shorter = some.unsqueeze(1) - bits[places]
            levels.append(tuple(x.to(device) for x in (some, places, before, shorter)))
        return levels


def _left(states: Tensor) -> Tensor:
    """Return what stands left of each place of `states [B, L]`, -1 left of the first, int64 `[B, L]`."""
    return torch.cat([torch.full_like(states[:, :1], -1), states[:, :-1]], 1)


ORDERS: dict[str, type[Order]] = {
    "any": AnyPlace,
    "prepend_append": PrependAppend,
    "left_to_right": LeftToRight,
    "insert": Insert,
}
