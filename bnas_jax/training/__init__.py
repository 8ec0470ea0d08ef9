"""Pure steps, their optimizers and state, the loops around them, checkpoints."""
