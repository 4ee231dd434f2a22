"""Training: the loop on accelerate, EMA, checkpoints and exact resume."""
