"""QM9 with a reward of one's own: train on drug-likeness, and draw the ten best molecules.

    python docs/examples/qm9_own_reward.py [TRAJECTORIES] [PICTURE]

The reward is QED (Bickerton et al. 2012, doi 10.1038/nchem.1243) as RDKit computes it, and less for parts that chemists
would not make. The environment is told its name, and asks it about each molecule once. Needs the extra `molecules`.
"""

import sys
from pathlib import Path

from rdkit import Chem
from rdkit.Chem import QED

import agents
from gfn_envs.envs.molecules.chem import grid

ODD_PARTS = [Chem.MolFromSmarts(part) for part in ("*=*=*", "[N,O,F]~[N,O,F]", "[r3,r4]=*", "[r]#[r]", "[#6]#[#6]")]
"""Cumulated double bonds, bonded heteroatoms, double bonds at small rings, triple bonds in rings, alkynes."""


def drug_likeness(smiles):
    """Return a reward for each molecule: a list of distinct SMILES -> as many positive numbers."""
    molecules = [Chem.MolFromSmiles(each) for each in smiles]
    return [QED.qed(each) * 0.8 ** sum(each.HasSubstructMatch(part) for part in ODD_PARTS) for each in molecules]


def main(trajectories, picture):
    run = agents.train(
        env="gfn/QM9-v0",
        agent="tb",
        backward="tlm",
        trajectories=trajectories,
        # A run stores its settings as JSON, so that the reward is named: module:function.
        env_kwargs={"reward": f"{Path(__file__).stem}:drug_likeness", "beta": 10, "max_rings": 2},
        # A small network and a fast rate, for a few minutes on a CPU.
        settings={
            "batch_size": 64,
            "agent.lr": 3e-3,
            "network.width": 32,
            "network.layers": 2,
            "epsilon_trajectories": trajectories,
            "eval.test_every": 0,
        },
    )
    samples = run.policy.sample(1000)
    rewards = samples.log_raw_reward.exp()
    print(f"mean reward of 1,000 molecules: {float(rewards.mean()):.3f}, log Z: {run.policy.log_z:.2f}")
    by_smiles = dict(zip(run.policy.texts(samples.states), rewards.tolist(), strict=True))
    best = sorted(by_smiles, key=by_smiles.__getitem__, reverse=True)[:10]
    grid(best, [f"{each}\nr = {by_smiles[each]:.3f}" for each in best], columns=5).save(picture)
    print("\n".join(best))
    print(f"drawn in {picture}")


if __name__ == "__main__":
    arguments = dict(enumerate(sys.argv))
    main(int(arguments.get(1, 12_800)), arguments.get(2, "best_molecules.png"))
