"""Times that docs/performance.md states, measured again on any machine."""
