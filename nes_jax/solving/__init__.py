"""The work behind `nes_jax.solve`, from the checks of its arguments to chunks of a batch."""
