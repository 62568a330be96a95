"""All the heads that a network of the tests has, and what it says with them."""

from torch import Tensor

from agents.networks.base import Heads, Network

HEADS: Heads = {"forward": "forward", "backward": "backward", "flow": "scalar", "count": "scalar"}


def outputs_of(network: Network, states: Tensor) -> dict[str, Tensor]:
    """Return what a network with `HEADS` says of `states [B, d]`, by head; scalars as `[B]`."""
    here = network(states)
    return {
        "forward": here.forward_logits,
        "backward": here.backward_logits,
        "flow": here.log_flow,
        "count": here.scalar("count"),
    }
