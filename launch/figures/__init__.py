"""Pictures of games, markets and calibrations."""
