"""Trained policies that come with the project, one for each environment with its default arguments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gfn_envs.errors import choose
from gfn_envs.packaged import read

PREFIX = "pretrained:"
"""`agents.load("pretrained:gfn/QM9-v0")` loads the policy for that environment."""
FOLDER = Path(__file__).parent
INDEX = FOLDER / "index.json"


def policy_file(env: str) -> Path:
    """Return the file of the policy for an environment, whose content is the one that the index tells.

    Raises `ValueError` for an id without a policy (the message lists the others, closest first), and for a file that is
    missing or has another SHA-256 than the index says.
    """
    row = choose("pretrained policy", env, read_index())
    file = FOLDER / file_of(env)
    read(file, f"the policy for {env}", row["sha256"])
    return file


def file_of(env: str) -> str:
    """Return the name of the file with the policy for an environment."""
    return f"{env.rpartition('/')[2]}.safetensors"


def read_index() -> dict[str, dict[str, Any]]:
    """Return what the project tells of each policy, by id of the environment."""
    return json.loads(INDEX.read_text(encoding="utf-8"))
