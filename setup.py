"""What pyproject.toml cannot say: the presets of configs/ are installed inside the
package.
"""

import setuptools

setuptools.setup(
    packages=[
        *setuptools.find_packages(include=["bnas_jax*"]),
        "bnas_jax.presets.configs",
    ],
    package_dir={"bnas_jax.presets.configs": "configs"},
)
