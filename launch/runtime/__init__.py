"""What the programs share: devices, checkpoints, metric writers."""
