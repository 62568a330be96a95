"""Trajectory balance with TLM on the 8 x 8 hypergrid, in one file: plain torch on an environment, no agents.

    python docs/examples/tb_tlm.py [ITERATIONS]

It prints the exact total variation between what the policy samples and R/Z. Source: trajectory balance, Malkin et al.
2022 (arXiv 2201.13259); TLM and its stabilisers, Gritsaev et al. 2025 (arXiv 2410.15474), Algorithm 1.
"""

import copy
import sys

import torch
from torch import nn
from torch.nn import functional

import gfn_envs
from gfn_envs.metrics import total_variation


def network(outputs):
    layers = (nn.Linear(sum(dag.nvec), 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, outputs))
    return nn.Sequential(*layers)


def logits(net, states):
    codes = [functional.one_hot(component, n) for component, n in zip(states.T, dag.nvec, strict=True)]
    return net(torch.cat(codes, 1).float())


def log_prob(net, states, mask, actions):
    """Log-probability of legal `actions [B]` by `net` at `states [B, d]`."""
    return logits(net, states).masked_fill(~mask, -1e9).log_softmax(1).gather(1, actions[:, None])[:, 0]


@torch.no_grad()
def sample(num):
    """Walk along P_F; return states, actions, next states and backward actions of all steps, and whose they are."""
    states, walker, steps = dag.reset(num), torch.arange(num), []
    while len(walker):
        mask = dag.action_mask(states)
        explores = torch.rand(len(states), 1) < 0.05  # a random action now and then, so that no peak stays unseen
        scores = torch.where(explores, 0.0, logits(p_f, states)).masked_fill(~mask, -1e9)
        actions = scores.softmax(1).multinomial(1)[:, 0]
        next_states, backward_actions = dag.step(states, actions)
        steps.append((states, actions, next_states, backward_actions, walker))
        goes_on = ~dag.is_terminal(next_states)
        states, walker = next_states[goes_on], walker[goes_on]
    return [torch.cat(part) for part in zip(*steps, strict=True)]


iterations = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
torch.manual_seed(0)
dag = gfn_envs.make("gfn/Hypergrid-v0", dim=2, side=8)
exact = gfn_envs.enumerate_dag(dag)
p_f, p_b, log_z = network(dag.num_actions), network(dag.num_backward_actions), nn.Parameter(torch.zeros(()))
for parameter in p_b[-1].parameters():
    nn.init.zeros_(parameter)  # P_B starts uniform over the parents
slow_p_b = copy.deepcopy(p_b)
optimizer = torch.optim.Adam(
    [{"params": p_f.parameters()}, {"params": [log_z], "lr": 0.1}, {"params": p_b.parameters()}], lr=1e-3
)

for iteration in range(iterations + 1):
    if iteration % max(1, iterations // 10) == 0:
        learned = exact.terminal_distribution(lambda states: logits(p_f, states).detach())
        print(f"{16 * iteration:6,} trajectories: total variation {total_variation(learned, exact.target):.3f}")
    states, actions, next_states, backward_actions, walker = sample(16)
    parents = dag.backward_action_mask(next_states)
    # TLM: P_B maximises the likelihood of the trajectories; the forward loss sees a slow copy of it.
    tlm = -log_prob(p_b, next_states, parents, backward_actions).sum() / 16
    log_pf = log_prob(p_f, states, dag.action_mask(states), actions)
    log_pb = log_prob(slow_p_b, next_states, parents, backward_actions).detach()
    log_reward = torch.where(dag.is_terminal(next_states), dag.log_reward(next_states), 0.0)
    tb = (log_z + torch.zeros(16).index_add(0, walker, log_pf - log_pb - log_reward)).square().mean()
    optimizer.zero_grad()
    (tlm + tb).backward()  # P_F and P_B share no weights
    optimizer.step()
    optimizer.param_groups[2]["lr"] *= 0.999  # that of P_B
    for slow, fast in zip(slow_p_b.parameters(), p_b.parameters(), strict=True):
        slow.data.lerp_(fast.data, 0.25)
