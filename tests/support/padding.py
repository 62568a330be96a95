"""The CPU as a device that the host waits for: batches keep their padding, as they do on a GPU."""

import sys

import pytest


def padding_stays(patch: pytest.MonkeyPatch) -> None:
    """Let the CPU count as a device that the host waits for."""
    for name, module in list(sys.modules.items()):
        if name.startswith("agents.") and hasattr(module, "host_is_free"):
            patch.setattr(module, "host_is_free", lambda device: False)
