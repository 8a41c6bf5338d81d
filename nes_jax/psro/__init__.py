"""Joint policy-space response oracles (JPSRO) of Marris et al. (2021), arXiv 2106.09435.

`meta_solver` makes meta-solvers with the signature of OpenSpiel's; `jpsro` runs the whole algorithm
on normal-form games, for many seeds or games at once.
"""

from nes_jax.psro.meta import UncertifiedError, UncertifiedWarning, meta_solver
from nes_jax.psro.normal_form import Run, jpsro

__all__ = ["Run", "UncertifiedError", "UncertifiedWarning", "jpsro", "meta_solver"]
