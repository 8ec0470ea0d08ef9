"""A process of two with a cache of compiled programs: `caching.py COORDINATOR NUMBER`.

The variable JAX_COMPILATION_CACHE_DIR names the cache. It prints whether a program that
it compiles then goes there.
"""

import sys

import jax

from bnas_jax.runtime.compilation_cache import leave_unless_shared

coordinator, number = sys.argv[1], int(sys.argv[2])
jax.distributed.initialize(coordinator, num_processes=2, process_id=number)
leave_unless_shared()
kept = []
jax.monitoring.register_event_listener(
    lambda event, **_: kept.append(event.endswith("compile_requests_use_cache"))
)
jax.jit(lambda: 0).lower().compile()
print(any(kept))
