"""The paper (arXiv 2002.06963) as pure functions and small Flax modules."""
