"""Alignments: packed with the package, read from FASTA, or given as a mapping from taxon to sequence.

Source: the benchmark sets DS1 .. DS8 of Lakner et al. 2008 (doi 10.1080/10635150801886156); see NOTICE.md beside them.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gfn_envs import packaged
from gfn_envs.errors import choose, closest_first, integer_at_least

PACKED = Path(__file__).with_name("alignments.npz")
PACKED_SHA256 = "3723816d7b9c3dd2e69c25130cfb017af44f0e95acf65f3776a224eb991653fb"
DATASETS = tuple(f"DS{i}" for i in range(1, 9))

_BASES = {"A": 16, "C": 8, "G": 4, "T": 2, "U": 2}
_SEVERAL = {"R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC", "B": "CGT", "D": "AGT", "H": "ACT"}
_SEVERAL |= {"V": "ACG", "N": "ACGT", "?": "ACGT"}
GAP = 1
SETS = _BASES | {"-": GAP} | {letter: sum(_BASES[base] for base in of) for letter, of in _SEVERAL.items()}
"""The set of states that each letter stands for, a bit each: A 16, C 8, G 4, T or U 2, gap 1; N and ? are any base."""


@dataclass(frozen=True)
class Alignment:
    """The columns of an alignment, each distinct one once."""

    taxa: tuple[str, ...]
    sets: np.ndarray
    """uint8 `[taxa, patterns]`: the set of states of a taxon at a site, bits as in `SETS`."""
    counts: np.ndarray
    """int64 `[patterns]`: the number of sites with this column."""
    name: str = ""
    """The packed set that all of this is, or an empty string."""

    def first(self, taxa: int | Sequence[str]) -> Alignment:
        """Return the first so many taxa, or those named; `ValueError` for too many, too few or unknown ones."""
        chosen = [self.taxa.index(taxon) for taxon in _chosen(taxa, self.taxa)]
        if chosen == list(range(len(self.taxa))):
            return self
        return _distinct([self.taxa[i] for i in chosen], self.sets[chosen], self.counts)


def read(dataset: str | os.PathLike[str] | Mapping[str, str]) -> Alignment:
    """Return an alignment by the name of a packed set, as a FASTA file or text, or as a mapping taxon -> sequence.

    Raises `ValueError` for an unknown name, a file that is not there, sequences of unequal lengths and unknown letters.
    """
    if isinstance(dataset, Mapping):
        return _checked(list(dataset.items()))
    if not isinstance(dataset, str | os.PathLike):
        raise ValueError(f"dataset must be a name, FASTA, or a mapping from taxon to sequence, got {dataset!r}.")
    if dataset in DATASETS:
        return _packed(str(dataset))
    text = str(dataset)
    if text.lstrip().startswith(">"):
        return _checked(list(_fasta(text)))
    if not os.path.isfile(text):
        choose("dataset", text, dict.fromkeys([*DATASETS, "a FASTA file that exists", "FASTA text"]))
    return _checked(list(_fasta(Path(text).read_text(encoding="utf-8"))))


def _packed(name: str) -> Alignment:
    with np.load(io.BytesIO(packaged.read(PACKED, "the alignments", PACKED_SHA256))) as file:
        taxa, letters, counts = (file[f"{name}.{part}"] for part in ("taxa", "letters", "counts"))
    return Alignment(tuple(taxon.decode() for taxon in taxa), _sets_of(letters), counts.astype(np.int64), name)


def _fasta(text: str) -> Iterator[tuple[str, str]]:
    """Yield taxon and sequence of each record; the taxon is the first word of its line."""
    for record in text.lstrip().removeprefix(">").split("\n>"):
        title, _, sequence = record.partition("\n")
        words = title.split()
        if not words:
            raise ValueError(f"FASTA: a record has no name: {record[:60]!r}.")
        yield words[0], "".join(sequence.split())


def _checked(records: list[tuple[str, str]]) -> Alignment:
    """Return the alignment of pairs of taxon and sequence, or raise `ValueError`."""
    taxa = [taxon for taxon, _ in records]
    for taxon, sequence in records:
        if not (isinstance(taxon, str) and taxon and isinstance(sequence, str)):
            raise ValueError(f"an alignment maps names to sequences, both of them text, got {taxon!r}: {sequence!r}.")
        if taxa.count(taxon) > 1:
            raise ValueError(f"the alignment has two sequences of {taxon!r}.")
        if len(sequence) != len(records[0][1]):
            raise ValueError(
                f"the sequences must be aligned, hence equally long: {records[0][0]!r} has {len(records[0][1])} sites, "
                f"{taxon!r} has {len(sequence)}."
            )
        for site, letter in enumerate(sequence):
            if letter.upper() not in SETS:
                raise ValueError(f"{taxon!r} has {letter!r} at site {site + 1}; letters are {' '.join(SETS)}.")
    if not records or not records[0][1]:
        raise ValueError("the alignment is empty.")
    letters = np.array([list(sequence.upper().encode()) for _, sequence in records], dtype=np.uint8)
    return _distinct(taxa, _sets_of(letters), np.ones(letters.shape[1], dtype=np.int64))


def _sets_of(letters: np.ndarray) -> np.ndarray:
    table = np.zeros(256, dtype=np.uint8)
    for letter, states in SETS.items():
        table[ord(letter)] = states
    return table[letters]


def _distinct(taxa: Sequence[str], sets: np.ndarray, counts: np.ndarray) -> Alignment:
    columns, place = np.unique(sets, axis=1, return_inverse=True)
    return Alignment(tuple(taxa), columns, np.bincount(place.ravel(), weights=counts).astype(np.int64))


def _chosen(taxa: int | Sequence[str], known: tuple[str, ...]) -> Sequence[str]:
    """Return the names of the first `taxa`, or the names given, after checking them."""
    if isinstance(taxa, str) or not isinstance(taxa, Sequence):
        count = integer_at_least("taxa", taxa, 3)  # type: ignore[arg-type]
        if count > len(known):
            raise ValueError(f"taxa must be at most {len(known)}, as many as the alignment has, got {count}.")
        return known[:count]
    for taxon in taxa:
        if taxon not in known:
            near = ", ".join(closest_first(str(taxon), list(known))[:5])
            raise ValueError(f"Unknown taxon {taxon!r}. Closest of {len(known)}: {near}.")
    if len(set(taxa)) < max(len(taxa), 3):
        raise ValueError(f"taxa must name at least 3, each once, got {list(taxa)}.")
    return taxa
