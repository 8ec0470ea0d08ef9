"""Plans of runs, made by compiling them for machines that are not there.

A plan says how much memory a step needs, how many bytes it moves, and the least time
that it takes.
"""

# A plan is for a step of the run, or for a batch of its evaluation.
STEP, EVALUATE = "step", "evaluate"
