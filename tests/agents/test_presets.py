"""Presets of every environment: their settings exist, lie in bounds, and are read by what a run chose."""

import pytest

import gfn_envs
from agents import registry
from agents.config import check_config, usual
from gfn_envs.registry import find, load


@pytest.mark.parametrize("preset", ["default", "paper", "tuned"])
@pytest.mark.parametrize("env", gfn_envs.registered())
def test_every_choice_has_settings_that_it_reads(env: str, preset: str) -> None:
    dag = load(find(env)[0])
    networks = [name for name in registry.NETWORKS.names() if not registry.NETWORKS.find(name).fits(dag)]
    assert "mlp" in networks
    for agent in registry.AGENTS.names():
        for backward in registry.BACKWARD.names():
            for network in networks:
                check_config(usual(env, agent, backward, network, preset))
