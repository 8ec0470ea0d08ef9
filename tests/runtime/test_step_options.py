"""The options that steps are compiled with."""

import jax

from bnas_jax.runtime import devices, steps


def test_the_installed_version_of_xla_knows_all_options():
    assert steps.step_options() == steps.ON_CPU


def test_without_optimizations_the_level_is_that_of_jax():
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        options = steps.step_options()
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
    assert options == {
        name: value for name, value in steps.ON_CPU.items() if name != steps.LEVEL
    }


def test_beside_an_accelerator_the_cpu_draws_the_first_state(monkeypatch):
    """Its compiler is the fastest, and takes options that others would not."""
    asked = []
    jit = jax.jit

    def noted(function, **how):
        asked.append((how, jax.config.jax_default_device))
        return jit(function, **how)

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "jit", noted)
    made = devices.ONE.create(lambda seed: seed + 1, 2)

    (cpu, *_) = jax.local_devices(backend="cpu")
    assert asked == [({"compiler_options": {steps.LEVEL: 0}}, cpu)]
    assert int(made) == 3
