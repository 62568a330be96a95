"""A page for each registered environment: from its class, the registries, the trained policies and the results."""

from __future__ import annotations

import csv
import inspect
import re
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import docstring_parser
from site_markdown import code, number, table

from agents import registry
from agents.config import choose_network, method_names
from agents.pretrained import read_index
from agents.pretrained.make import COLUMNS
from gfn_envs import abilities, enumerate_dag, make, registered
from gfn_envs.dag import DAG
from gfn_envs.exact import TooLargeError
from gfn_envs.registry import find, load
from gfn_envs.rewards import Asking

ROOT = Path(__file__).parents[2]
TEXTS = ROOT / "docs" / "environments"
CELLS = ROOT / "results" / "tiny" / "cells.csv"
LABELS = ("State", "Actions", "Backward actions", "Terminal states", "Reward", "Size", "Source")
"""The sections of an environment's docstring."""
MAX_EDGES = 300_000
"""An environment with more edges is not enumerated for its page."""
BEST = 5
"""Methods shown for each instance of the suite."""


def ids() -> list[str]:
    """Return the ids of the project's environments."""
    return [id for id in registered() if id.startswith("gfn/")]


def name_of(id: str) -> str:
    """Return the name in an id: `Bag` of `gfn/Bag-v0`."""
    return id.removeprefix("gfn/").partition("-")[0]


def text_of(id: str) -> Path | None:
    """Return the file with the hand-written text of an environment, where it has one of its own."""
    name = name_of(id).lower()
    return next((path for path in TEXTS.glob("*.md") if path.stem.replace("_", "") == name), None)


def place_of(id: str) -> str:
    """Return the path of an environment's page: that of its hand-written text, so that links to it hold."""
    text = text_of(id)
    return f"environments/{text.stem if text else name_of(id).lower()}.md"


def class_of(id: str) -> type[DAG]:
    """Return the class of an environment."""
    return load(find(id)[0])


@cache
def made(id: str) -> DAG | None:
    """Return the environment with its default arguments, or None where files that it needs cannot be had."""
    try:
        return make(id)
    except (FileNotFoundError, ModuleNotFoundError):
        return None


def described(cls: type) -> tuple[str, dict[str, str], str]:
    """Return what a class's docstring says: its introduction, the text below each label, and its notes."""
    text = (inspect.getdoc(cls) or "").partition("\nArgs:\n")[0]
    parts = re.split(rf"(?:^|(?<=\. ))({'|'.join(LABELS)}): ", text, flags=re.MULTILINE)
    labelled = dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))
    last = LABELS[-1]
    labelled[last], _, notes = labelled[last].partition("\n\n")
    return parts[0].strip(), labelled, notes.strip()


def arguments(cls: type) -> list[tuple[str, str, str]]:
    """Return name, default and meaning of each argument of a class; a base class may say what it means."""
    meanings: dict[str, str] = {}
    for each in (*cls.__mro__, Asking):
        for param in docstring_parser.parse(each.__doc__ or "", docstring_parser.DocstringStyle.GOOGLE).params:
            for name in param.arg_name.split(", "):
                if not (param.description or "").startswith("as in"):
                    meanings.setdefault(name, " ".join((param.description or "").split()))
    return [
        (name, "" if given.default is given.empty else repr(given.default), meanings.get(name, ""))
        for name, given in inspect.signature(cls).parameters.items()
    ]


def page(id: str) -> str:
    """Return the page of an environment."""
    cls, changed = class_of(id), find(id)[1]
    intro, labelled, notes = described(cls)
    own, first = text_of(id), next(each for each in ids() if class_of(each) is cls)
    picture = f"![A trajectory of the trained policy and a random one](../pictures/gallery/{name_of(id)}.png)"
    parts = [f"# {id}", picture, _without_title(own.read_text(encoding="utf-8")) if own else intro]
    if not own and issubclass(cls, abilities.Molecules):
        parts.append("[Molecules](../environments.md#molecules) tells of SMILES, symmetry and the rewards.")
    if first != id:
        other = f"[{first}]({Path(place_of(first)).name})"
        parts.append(f"It is {other} with {_given(changed)}, and that page says more about both.")
    parts += ["## In numbers", _sizes(id)]
    if first == id:
        parts += ["## State, actions, reward", _definitions(labelled), notes]
    parts += ["## Arguments", table(("argument", "default", "meaning"), _argument_rows(id))]
    parts += ["## Abilities", _abilities(cls)]
    parts += ["## Usual settings", _settings(id), "## Trained policy", _trained(id)]
    if results := _results(id):
        parts += ["## Results on small instances", results]
    return "\n\n".join(part for part in parts if part) + "\n"


def _given(values: dict[str, Any]) -> str:
    return ", ".join(code(f"{name}={value!r}") for name, value in values.items())


def _without_title(text: str) -> str:
    return re.sub(r"\A# .*\n+", "", text).strip()


def _sizes(id: str) -> str:
    _, states, objects = listed()[id]
    rows = [("states", states), ("objects", objects)]
    dag = made(id)
    if dag is not None:
        rows += [
            ("components of a state", number(dag.state_dim)),
            ("actions", number(dag.num_actions)),
            ("backward actions", number(dag.num_backward_actions)),
            ("longest trajectory", f"{number(dag.max_steps)} steps"),
        ]
        if isinstance(dag, abilities.HasModes) and dag.num_modes:
            rows.append(("modes", number(dag.num_modes)))
        with suppress(TooLargeError):
            exact = enumerate_dag(dag, MAX_EDGES)
            rows += [("edges", number(len(exact.parents))), ("log Z by enumeration", f"{exact.log_z:.6g}")]
        if isinstance(dag, abilities.KnowsPartition) and (log_z := dag.log_partition()) is not None:
            rows.append(("`log_partition()`", f"{log_z:.6g}"))
    general = f"In general: {described(class_of(id))[1]['Size']}"
    return f"{table(('', 'with the default arguments'), rows)}\n\n{general}"


@cache
def listed() -> dict[str, tuple[str, str, str]]:
    """Return what the README's table says of each environment: what is built, states, objects."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(gfn/\S+)` \| (.+) \| (.+) \| (.+) \|$", readme, flags=re.MULTILINE)
    return {id: (built, states, objects) for id, built, states, objects in rows}


def _definitions(labelled: dict[str, str]) -> str:
    """Return the labelled parts of a docstring as a list of definitions."""
    shown = {label: text for label, text in labelled.items() if label != "Size"}
    return "\n\n".join(f"{label}\n:   {textwrap.indent(text, '    ').strip()}" for label, text in shown.items())


def _argument_rows(id: str) -> Iterable[tuple[str, str, str]]:
    changed = find(id)[1]
    for name, default, meaning in arguments(class_of(id)):
        yield code(name), code(repr(changed[name]) if name in changed else default), meaning


def _abilities(cls: type) -> str:
    known = [each for each in vars(abilities).values() if _is_ability(each) and issubclass(cls, each)]
    rows = [
        (code(each.__name__), _first_line(each), ", ".join(code(f"{name}()") for name in _methods(each)))
        for each in known
    ]
    return table(("ability", "what it means", "methods"), rows)


def _is_ability(thing: object) -> bool:
    return inspect.isclass(thing) and thing.__module__ == abilities.__name__


def _methods(ability: type) -> list[str]:
    return [name for name, thing in vars(ability).items() if inspect.isfunction(thing) and name[0] != "_"]


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").split("\n\n")[0]


def _settings(id: str) -> str:
    """Return a table of the settings that the presets give; a setting that only some agents have names them."""
    values = {preset: _preset(preset, id) for preset in ("default", "paper")}
    names = dict.fromkeys(name for given in values.values() for name in given)
    if not names:
        return "The defaults of all settings."
    rows = []
    for name in names:
        usual, paper = (_told(values[preset].get(name, {})) for preset in values)
        rows.append((code(name), usual, "" if paper == usual else paper))
    about = "Where they are not those of every environment; `--preset paper` where it differs."
    return f"{about}\n\n{table(('setting', 'default', 'paper'), rows)}"


def _preset(preset: str, id: str) -> dict[str, dict[str, Any]]:
    """Return the values of a preset with TLM, by setting and agent."""
    network, found = choose_network("auto", id), defaultdict(dict)
    for agent in registry.AGENTS.names():
        for name, value in registry.preset_values(preset, registry.Choice(id, agent, "tlm", network)).items():
            found[name][agent] = value
    return found


def _told(by_agent: dict[str, Any]) -> str:
    """Return one value if all agents agree, and otherwise each value with the agents that have it."""
    groups: dict[str, list[str]] = defaultdict(list)
    for agent, value in by_agent.items():
        groups[_setting(value)].append(agent)
    return "; ".join(f"{value}{_of(agents)}" for value, agents in groups.items())


def _of(agents: Sequence[str]) -> str:
    """Return which agents these are: those, or all but the others."""
    others = [each for each in registry.AGENTS.names() if each not in agents]
    if not others:
        return ""
    return f" (all but {', '.join(others)})" if len(others) < len(agents) else f" ({', '.join(agents)})"


def _setting(value: Any) -> str:
    return f"{value:,}" if type(value) is int else f"{value:.8g}" if type(value) is float else str(value)


def _trained(id: str) -> str:
    row = read_index()[id]
    method = " + ".join(method_names(row["agent"], row["backward"], row["sampler"]))
    rows = [
        ("trained by", method),
        ("network", row["network"]),
        ("trajectories", number(row["trajectories"])),
        ("CPU minutes", f"{row['cpu_seconds'] / 60:.1f}"),
        *((heading, number(row["metrics"][name])) for name, heading in COLUMNS.items() if name in row["metrics"]),
    ]
    about = (
        f'`agents.load("pretrained:{id}")` loads it. [Trained policies](../pretrained.md) says what the figures mean.'
    )
    return f"{about}\n\n{table(('', ''), rows)}"


@cache
def _cells() -> Sequence[dict[str, str]]:
    with CELLS.open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def _results(id: str) -> str:
    """Return tables of the best methods on each instance of the environment in the suite; empty if there is none."""
    found: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in _cells():
        if row["env"] == id and row["agent"] and row["total_variation_exact"]:
            _, instance, method, _ = row["cell"].split("/")
            found[instance, row["env_kwargs"]][method].append(float(row["total_variation_exact"]))
    parts = []
    for (instance, given), methods in found.items():
        best = sorted(methods, key=lambda method: mean(methods[method]))[:BEST]
        rows = [
            (method.replace("+", " + "), f"{mean(methods[method]):.4f}", str(len(methods[method]))) for method in best
        ]
        parts.append(f"The best {len(best)} of {len(methods)} methods with `{given}`, mean over seeds:")
        parts.append(table(("method", "total variation", "seeds"), rows))
        parts.append(f"[All methods](../../results/tiny/README.md#{instance})")
    return "\n\n".join(parts)


def overview() -> str:
    """Return a table of all environments with links to their pages."""
    rows = [(f"[{id}]({place_of(id)})", *listed()[id]) for id in ids()]
    return table(("id", "what is built", "states", "objects"), rows)


def with_links(gallery: str) -> str:
    """Return the gallery, whose headings lead to the pages of the environments."""
    return re.sub(r"^## (gfn/\S+)$", lambda head: f"## [{head[1]}]({place_of(head[1])})", gallery, flags=re.MULTILINE)
