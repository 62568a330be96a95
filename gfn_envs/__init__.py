"""GFlowNet problems as Gymnasium environments.

`import gfn_envs` registers the ids and loads neither torch nor rdkit; the names below are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gfn_envs.registry import make, register, registered

if TYPE_CHECKING:
    from gfn_envs.check import check_dag
    from gfn_envs.dag import DAG, LogRewards
    from gfn_envs.envs.bag import Bag
    from gfn_envs.envs.bayesnet.dag import BayesNet
    from gfn_envs.envs.bitsequence import BitSequence
    from gfn_envs.envs.factor_graph.dag import FactorGraph
    from gfn_envs.envs.factor_graph.ising import Ising
    from gfn_envs.envs.graphset.dag import GraphSet
    from gfn_envs.envs.hypergrid import Hypergrid
    from gfn_envs.envs.phylotree.dag import PhyloTree
    from gfn_envs.envs.qm9.dag import QM9
    from gfn_envs.envs.qm9blocks.dag import QM9Blocks
    from gfn_envs.envs.random_dag import RandomDAG
    from gfn_envs.envs.rnabinding.dag import RNABinding
    from gfn_envs.envs.seh.dag import SEH
    from gfn_envs.envs.subset import Subset
    from gfn_envs.envs.tfbind8.dag import TFBind8
    from gfn_envs.exact import Enumeration, enumerate_dag
    from gfn_envs.views import GraphView, TokenView
    from gfn_envs.wrappers import BackwardWalk, MaskInObservation

__all__ = [
    "DAG",
    "QM9",
    "SEH",
    "BackwardWalk",
    "Bag",
    "BayesNet",
    "BitSequence",
    "Enumeration",
    "FactorGraph",
    "GraphSet",
    "GraphView",
    "Hypergrid",
    "Ising",
    "LogRewards",
    "MaskInObservation",
    "PhyloTree",
    "QM9Blocks",
    "RNABinding",
    "RandomDAG",
    "Subset",
    "TFBind8",
    "TokenView",
    "check_dag",
    "enumerate_dag",
    "make",
    "register",
    "registered",
]

_LAZY = {
    "BackwardWalk": "gfn_envs.wrappers",
    "Bag": "gfn_envs.envs.bag",
    "BayesNet": "gfn_envs.envs.bayesnet.dag",
    "BitSequence": "gfn_envs.envs.bitsequence",
    "DAG": "gfn_envs.dag",
    "Enumeration": "gfn_envs.exact",
    "FactorGraph": "gfn_envs.envs.factor_graph.dag",
    "GraphSet": "gfn_envs.envs.graphset.dag",
    "GraphView": "gfn_envs.views",
    "Hypergrid": "gfn_envs.envs.hypergrid",
    "Ising": "gfn_envs.envs.factor_graph.ising",
    "LogRewards": "gfn_envs.dag",
    "MaskInObservation": "gfn_envs.wrappers",
    "PhyloTree": "gfn_envs.envs.phylotree.dag",
    "QM9": "gfn_envs.envs.qm9.dag",
    "QM9Blocks": "gfn_envs.envs.qm9blocks.dag",
    "RNABinding": "gfn_envs.envs.rnabinding.dag",
    "RandomDAG": "gfn_envs.envs.random_dag",
    "SEH": "gfn_envs.envs.seh.dag",
    "Subset": "gfn_envs.envs.subset",
    "TFBind8": "gfn_envs.envs.tfbind8.dag",
    "TokenView": "gfn_envs.views",
    "check_dag": "gfn_envs.check",
    "enumerate_dag": "gfn_envs.exact",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


register("gfn/Hypergrid-v0", "gfn_envs.envs.hypergrid:Hypergrid")
register("gfn/HypergridHard-v0", "gfn_envs.envs.hypergrid:Hypergrid", reward="hard")
register("gfn/BitSequence-v0", "gfn_envs.envs.bitsequence:BitSequence")
register("gfn/BayesNet-v0", "gfn_envs.envs.bayesnet.dag:BayesNet")
register("gfn/Set-v0", "gfn_envs.envs.subset:Subset")
register("gfn/Bag-v0", "gfn_envs.envs.bag:Bag")
register("gfn/RandomDAG-v0", "gfn_envs.envs.random_dag:RandomDAG")
register("gfn/FactorGraph-v0", "gfn_envs.envs.factor_graph.dag:FactorGraph")
register("gfn/Ising-v0", "gfn_envs.envs.factor_graph.ising:Ising")
register("gfn/SpinGlass-v0", "gfn_envs.envs.factor_graph.ising:Ising", coupling=1.0, bonds="random_signs")
register("gfn/PhyloTree-v0", "gfn_envs.envs.phylotree.dag:PhyloTree")
register("gfn/QM9-v0", "gfn_envs.envs.qm9.dag:QM9")
register("gfn/SEH-v0", "gfn_envs.envs.seh.dag:SEH")
register("gfn/TFBind8-v0", "gfn_envs.envs.tfbind8.dag:TFBind8")
register("gfn/GraphSet-v0", "gfn_envs.envs.graphset.dag:GraphSet")
register("gfn/QM9Blocks-v0", "gfn_envs.envs.qm9blocks.dag:QM9Blocks")
register("gfn/RNABinding-v0", "gfn_envs.envs.rnabinding.dag:RNABinding")
