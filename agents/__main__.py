"""Train a GFlowNet agent: python -m agents --agent mdqn --backward tlm --env gfn/Hypergrid-v0."""

import sys

from agents.runs.train import main

sys.exit(main())
