"""Solvers, loops and older versions that results and speeds are compared with."""
