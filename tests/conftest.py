"""Where tests find the published files of gfn/SEH-v0: beside the repository, in the cache, or on the network."""

import functools
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "shared" / "data"
DOWNLOADED = {"gfn/SEH-v0"}
"""Ids that cannot be made without downloaded files."""

_made = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Point the cache to links to the files beside the repository; workers and subprocesses inherit it."""
    if "GFN_ENVS_CACHE" in os.environ or not DATA.is_dir():
        return
    config.stash[_made] = os.environ["GFN_ENVS_CACHE"] = tempfile.mkdtemp(prefix="gfn-envs-")
    for file in DATA.iterdir():
        Path(config.stash[_made], file.name).symlink_to(file)


def pytest_unconfigure(config: pytest.Config) -> None:
    if _made in config.stash:
        shutil.rmtree(config.stash[_made])
        del os.environ["GFN_ENVS_CACHE"]


@functools.cache
def missing_data() -> str:
    """Return why the files cannot be had, "" if they can; one short try to download them where they are missing."""
    pytest.importorskip("rdkit")
    from gfn_envs.envs.seh import download

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "TIMEOUT", 5.0)
        try:
            for file in (download.WEIGHTS, download.BLOCKS):
                download.fetch(file)
        except FileNotFoundError as error:
            return str(error)
    return ""


@pytest.fixture(scope="session")
def seh_data() -> None:
    """Skip, with the reason, where the published files are missing."""
    if reason := missing_data():
        pytest.skip(reason)


@pytest.fixture(autouse=True)
def no_references() -> Iterator[None]:
    """Forget, after a test that names it, the P_B that registers itself: others look at all that is registered."""
    yield
    if sys.modules.pop("agents.references", None):
        from agents.registry import BACKWARD

        BACKWARD._rows.pop("posterior", None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip the cases of ids whose files are missing."""
    callspec = getattr(item, "callspec", None)
    parameters = callspec.params.values() if callspec else ()
    if any(isinstance(value, str) and value in DOWNLOADED for value in parameters) and (reason := missing_data()):
        pytest.skip(reason)
