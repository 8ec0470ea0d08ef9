"""The steps of search and training, optimizers, states, the loop, and checkpoints."""
