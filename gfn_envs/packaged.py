"""Files that are part of the package: nothing reads what is not, byte for byte, what was published."""

from __future__ import annotations

import hashlib
from pathlib import Path


def read(file: Path, what: str, sha256: str) -> bytes:
    """Return the content of a file of this package.

    Raises `ValueError`, which says what to do, where the file is missing or its SHA-256 is another: no reader meets
    damaged or hostile content.

    Args:
        what: what the file holds: `"the gaps"`.
        sha256: of its content, in hexadecimal; who makes the file anew writes the new one beside its name.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        reason = str(error)
    else:
        found = hashlib.sha256(content).hexdigest()
        if found == sha256:
            return content
        reason = f"its SHA-256 is {found}, not {sha256}"
    raise ValueError(f"{file}, {what}, is missing or damaged ({reason}): reinstall gfn-envs.")
