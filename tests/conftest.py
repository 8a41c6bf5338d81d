"""Settings and fixtures of the whole suite. x64 stays off: a test that needs it asks for `x64`."""

import os
import tempfile

import jax
import pytest

_MARKERS = ("slow: takes more than about ten seconds; `make test-fast` leaves it out",)
# What other packages deprecate is theirs to fix; a warning from this project stays visible.
_FILTERS = (
    r"ignore::DeprecationWarning:(haiku|distrax|chex|optax|tensorflow_probability|tf_keras)(\..*)?",
    r"ignore::DeprecationWarning:(cvxpy|ecos|bayes_opt|sklearn|matplotlib)(\..*)?",
)


# Where all processes of the suite find what one of them has compiled.
_COMPILED = "JAX_COMPILATION_CACHE_DIR"


def pytest_configure(config):
  if _COMPILED not in os.environ:
    config.compiled = tempfile.TemporaryDirectory(prefix="compiled-")
    os.environ[_COMPILED] = config.compiled.name
    jax.config.update("jax_compilation_cache_dir", config.compiled.name)
  for marker in _MARKERS:
    config.addinivalue_line("markers", marker)
  for line in _FILTERS:
    config.addinivalue_line("filterwarnings", line)


@pytest.fixture
def x64():
  """Switches 64-bit types on for one test, and off again."""
  if hasattr(jax, "enable_x64"):
    enable = jax.enable_x64
  else:  # JAX 0.7
    from jax.experimental import enable_x64 as enable
  with enable(True):
    yield


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
  """Lets go of what a file has compiled: a process can only map so much memory."""
  yield
  jax.clear_caches()
