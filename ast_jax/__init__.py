"""AST in JAX/Flax: anomaly detection from good parts alone, on RGB, 3D, or both.

Asymmetric Student-Teacher networks (Rudolph et al., WACV 2023, arXiv 2210.07829).
"""

__version__ = "0.1.0"
