"""The authors' PyTorch checkpoints."""
