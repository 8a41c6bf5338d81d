"""Studies of intervals of calibrated profiles against known truths."""
