"""GFlowNet agents in PyTorch: five objectives, five backward approaches, one loop."""
