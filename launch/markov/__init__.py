"""Work of `launch.markov_game` and `launch.checks.markov`: games, policies, learning, reports."""
