"""Benchmarks of what products do most; `python -m benchmarks` runs them."""
