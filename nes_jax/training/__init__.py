"""Unsupervised training of the network."""
