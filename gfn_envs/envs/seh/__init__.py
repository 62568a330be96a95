"""Molecules fragment by fragment, rewarded by a published proxy of the binding energy to soluble epoxide hydrolase.

Source: Bengio et al. 2021 (arXiv 2106.04399), section 4.3.
"""

from gfn_envs.envs.seh.features import predict

__all__ = ["predict"]
