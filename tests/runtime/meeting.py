"""A process of two that has compiled: `meeting.py COORDINATOR NUMBER SECONDS` sleeps so
long, as if it compiled, and prints how long it waited for the other then.
"""

import sys
import time

import jax

from bnas_jax.runtime import hosts
from bnas_jax.runtime.compiling import compile_together

coordinator, number, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
jax.distributed.initialize(coordinator, num_processes=2, process_id=number)
# Both are here, and have a first message behind them.
hosts.from_first("here")
time.sleep(seconds)
before = time.monotonic()
compile_together([])
print(time.monotonic() - before)
