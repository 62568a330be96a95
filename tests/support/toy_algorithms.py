"""An algorithm of one's own, such as a user registers it."""

from baselines.algorithms import Sampler
from baselines.registry import ALGORITHMS
from baselines.samplers import RandomPolicy

TOY = Sampler(RandomPolicy)
ALGORITHMS.register("toy", "toy_algorithms:TOY")
