"""Figures and tables of Marris et al. (2022), for `launch.nes_eval`."""
