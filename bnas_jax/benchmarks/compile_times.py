"""How long JAX traces and XLA compiles, by the events that JAX reports."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator

import jax

# (start, end) in seconds each.
Spans = list[tuple[float, float]]

# The last part of an event's name -> the field of `CompileTimes`.
_KINDS = {
    "jaxpr_trace": "tracing",
    "jaxpr_to_mlir_module": "tracing",
    "backend_compile": "compiling",
}


@dataclasses.dataclass
class CompileTimes:
    """How long a part of a program spent on compiling.

    tracing: when something was traced or lowered.
    compiling: when something was compiled, or loaded from JAX's cache.
    loaded: how many programs were loaded from the cache.
    """

    tracing: Spans = dataclasses.field(default_factory=list)
    compiling: Spans = dataclasses.field(default_factory=list)
    loaded: int = 0

    def figures(self) -> dict[str, float]:
        """Seconds of both, and the number of programs that the cache had."""
        return {
            "tracing_seconds": round(covered(self.tracing), 1),
            "compiling_seconds": round(covered(self.compiling), 1),
            "programs_from_cache": self.loaded,
        }


@contextlib.contextmanager
def compile_times() -> Iterator[CompileTimes]:
    """The times of everything that runs inside `with`, also in other threads."""
    times = CompileTimes()

    def note(event: str, duration_secs: float, **kwargs: str | int) -> None:
        del kwargs
        # Such as /jax/core/compile/backend_compile_duration.
        _, _, name = event.rpartition("/")
        kind = _KINDS.get(name.removesuffix("_duration"))
        if kind:
            # An event is reported at its end.
            now = time.perf_counter()
            spans = getattr(times, kind)
            spans.append((now - duration_secs, now))

    def count(event: str, **kwargs: str | int) -> None:
        del kwargs
        if event == "/jax/compilation_cache/cache_hits":
            times.loaded += 1

    jax.monitoring.register_event_duration_secs_listener(note)
    jax.monitoring.register_event_listener(count)
    try:
        yield times
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
        jax.monitoring.unregister_event_listener(count)


def covered(spans: Spans) -> float:
    """Seconds that lie in one or more of the spans.

    Spans overlap: programs are compiled side by side, and tracing has tracing within.
    """
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        # Only the part of this span that lies behind all spans so far.
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total
