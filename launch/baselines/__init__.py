"""Solvers and versions that results and speeds are compared with."""
