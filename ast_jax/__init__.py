"""AST in JAX/Flax: anomaly detection from good parts alone, on RGB, 3D, or both.

Asymmetric Student-Teacher networks (Rudolph et al., WACV 2023, arXiv 2210.07829).
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ast_jax.api import evaluate, fit, train
    from ast_jax.config import default as default_config
    from ast_jax.errors import UserError
    from ast_jax.inference.detector import Detector

__all__ = ["Detector", "UserError", "default_config", "evaluate", "fit", "train"]
__version__ = "0.2.0"

_PLACES = {
    "Detector": ("inference.detector", "Detector"),
    "UserError": ("errors", "UserError"),
    "default_config": ("config", "default"),
    "evaluate": ("api", "evaluate"),
    "fit": ("api", "fit"),
    "train": ("api", "train"),
}


def __getattr__(name: str) -> Any:
    """Imports a name on its first use, so that a command's flags need no JAX."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    """Returns the public names, imported or not."""
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
