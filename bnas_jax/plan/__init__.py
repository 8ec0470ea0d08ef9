"""Compiling a run for machines that are not there: what it needs of their memory, what
it moves, how long it takes at least.
"""

# What can be planned.
STEP, EVALUATE = "step", "evaluate"
