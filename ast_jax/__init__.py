"""AST in JAX/Flax: anomaly detection from good parts alone, on RGB, 3D, or both.

Asymmetric Student-Teacher networks (Rudolph et al., WACV 2023, arXiv 2210.07829).
"""

from typing import Any

__all__ = ["Detector"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports `Detector` when asked for: a command's flags need no JAX."""
    if name != "Detector":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ast_jax.inference.detector import Detector

    return Detector
