"""Trees as text in Newick's format.

Source: Olsen 1990, https://phylipweb.github.io/phylip/newick_doc.html.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gfn_envs.envs.phylotree.fitch import Tree
from gfn_envs.errors import closest_first

_PLAIN = re.compile(r"[^\s()\[\]':;,]+")
_TOKEN = re.compile(r"\s*(?:\[[^\]]*\]\s*)*('(?:[^']|'')*'|[(),:;]|[^\s()\[\]':;,]+)")


def written(tree: Tree, names: Sequence[str]) -> str:
    """Return a tree as text, without the semicolon."""
    if isinstance(tree, int):
        name = names[tree]
        return name if _PLAIN.fullmatch(name) else "'" + name.replace("'", "''") + "'"
    return f"({written(tree[0], names)},{written(tree[1], names)})"


def read_newick(text: str, names: Sequence[str]) -> Tree:
    """Return the tree that `text` says, with a leaf for each of `names`; lengths and names of inner nodes are left out.

    A root of three branches, as unrooted trees have, is put on the third one. Raises `ValueError` for what is no tree,
    other inner nodes that do not have two branches, and leaves that are unknown, missing or there twice.
    """
    tokens = _tokens(text)
    leaves: list[str] = []
    tree = _subtree(tokens, leaves, list(names), text, top=True)
    if tokens != [";"] and tokens:
        raise ValueError(f"Newick: {tokens[0]!r} does not belong where it stands in {text[:80]!r}.")
    missing = [name for name in names if name not in leaves]
    if missing or len(leaves) > len(names):
        twice = next((name for name in leaves if leaves.count(name) > 1), None)
        what = f"{twice!r} is there twice" if twice else f"{missing[0]!r} is missing"
        raise ValueError(f"Newick: the tree must have each taxon once, but {what} in {text[:80]!r}.")
    return tree


def _tokens(text: str) -> list[str]:
    """Return names and punctuation in order, without comments."""
    found, place = [], 0
    stripped = text.rstrip()
    while place < len(stripped):
        match = _TOKEN.match(stripped, place)
        if not match:
            raise ValueError(f"Newick: cannot read on from {stripped[place : place + 20]!r}.")
        found.append(match.group(1))
        place = match.end()
    return found


def _subtree(tokens: list[str], leaves: list[str], names: list[str], text: str, top: bool = False) -> Tree:
    """Take a tree off the front of `tokens`, and note its leaves."""
    if not tokens or tokens[0] in "),:;":
        raise ValueError(f"Newick: a name or a bracket is missing in {text[:80]!r}.")
    token = tokens.pop(0)
    if token != "(":
        name = token[1:-1].replace("''", "'") if token.startswith("'") else token
        if name not in names:
            near = ", ".join(closest_first(name, names)[:5])
            raise ValueError(f"Unknown taxon {name!r}. Closest of {len(names)}: {near}.")
        leaves.append(name)
        _skip_length(tokens)
        return names.index(name)
    branches = [_subtree(tokens, leaves, names, text)]
    while tokens[:1] == [","]:
        tokens.pop(0)
        branches.append(_subtree(tokens, leaves, names, text))
    if tokens[:1] != [")"]:
        raise ValueError(f"Newick: a bracket is not closed in {text[:80]!r}.")
    tokens.pop(0)
    if tokens and tokens[0] not in "(),:;":
        tokens.pop(0)  # the name of an inner node
    _skip_length(tokens)
    if len(branches) == 3 and top:
        return ((branches[0], branches[1]), branches[2])
    if len(branches) != 2:
        raise ValueError(f"Newick: a node has {len(branches)} branches, but trees here are binary: {text[:80]!r}.")
    return (branches[0], branches[1])


def _skip_length(tokens: list[str]) -> None:
    if tokens[:1] == [":"]:
        del tokens[:2]
