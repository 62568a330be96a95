"""Run a baseline: python -m baselines --algo maskable_ppo --env gfn/Hypergrid-v0."""

import sys

from baselines.train import main

sys.exit(main())
