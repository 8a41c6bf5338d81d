"""Training of shared equilibria and their calibration to targets (Vadori et al., 2020)."""
