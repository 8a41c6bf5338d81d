"""Work of `launch.region`: games, the sets of their equilibria, tables and a picture."""
