"""The work of `launch.market_game`: an empirical game of trained and fixed policies."""
