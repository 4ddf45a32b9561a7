"""Ships configs/, which is at the top level of a checkout, inside the package."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["ast_jax*"]), "ast_jax.configs"],
    package_dir={"ast_jax.configs": "configs"},
)
