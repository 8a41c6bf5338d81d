"""Environments in which many agents of different types act at once, as pure functions."""
