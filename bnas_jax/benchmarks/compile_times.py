"""The time that JAX traces and XLA compiles, from the events that JAX reports."""

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
    """The times that a part of a program spent on compiling.

    tracing: the spans in which something was traced or lowered.
    compiling: the spans in which something was compiled, or loaded from JAX's cache.
    loaded: the number of programs that were loaded from the cache.
    """

    tracing: Spans = dataclasses.field(default_factory=list)
    compiling: Spans = dataclasses.field(default_factory=list)
    loaded: int = 0

    def figures(self) -> dict[str, float]:
        """Seconds of tracing and compiling, and the number of programs loaded."""
        return {
            "tracing_seconds": round(covered(self.tracing), 1),
            "compiling_seconds": round(covered(self.compiling), 1),
            "programs_from_cache": self.loaded,
        }


@contextlib.contextmanager
def compile_times() -> Iterator[CompileTimes]:
    """Measures everything that is compiled inside `with`, in any thread."""
    times = CompileTimes()

    def note(event: str, duration_secs: float, **kwargs: str | int) -> None:
        del kwargs
        # For instance /jax/core/compile/backend_compile_duration.
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
    """The total length of the union of the spans, in seconds.

    Spans overlap: programs are compiled at the same time, and tracing is nested.
    """
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        # Add only the part of this span that is after all spans so far.
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total
