"""Plans of runs: compiled for machines that are not there.

A plan says what a run needs of their memory, what it moves, and how long it takes at
least.
"""

# What can be planned.
STEP, EVALUATE = "step", "evaluate"
