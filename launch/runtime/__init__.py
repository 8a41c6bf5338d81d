"""Parts that all programs share: flags, training loop, devices, checkpoints, metrics."""
