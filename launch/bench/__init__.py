"""The suites of `launch.benchmark`, each in a module of its name, and their frame."""
