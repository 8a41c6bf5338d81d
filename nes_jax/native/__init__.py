"""Compiled exact engines: C++ for CPUs (`cpu`) and CUDA kernels for NVIDIA GPUs (`cuda`)."""

from nes_jax.native import cpu, cuda

__all__ = ["cpu", "cuda", "engines"]


def engines() -> dict[str, str | None]:
  """Exact engines of this machine: name -> None if it serves, or the reason why it does not.

  "native" is C++ for CPUs, and "cuda" stands for CUDA kernels for NVIDIA GPUs. "jax" serves
  everywhere, and solves what the others do not cover.
  """
  return {"native": cpu.reason(), "cuda": cuda.available(), "jax": None}
