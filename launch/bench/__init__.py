"""The suites of `launch.benchmark`."""
