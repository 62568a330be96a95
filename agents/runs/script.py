"""The shared part of the scripts in agents/ and baselines/, which are also the commands `gfn-train` and so on."""

from __future__ import annotations

import importlib
import os
import sys


def run(module: str) -> None:
    """Run the command line `module.main()` for a script, and exit with its code.

    Python puts a script's own folder first on the path, where files such as agents/config.py would hide a user's
    module of the same name. This function takes that folder off the path and appends the current folder, where
    `MODULE:NAME` finds a user's module.
    """
    if not sys.flags.safe_path:  # with this flag Python does not add the folder
        del sys.path[0]
    sys.path.append(os.getcwd())
    sys.exit(importlib.import_module(module).main())
