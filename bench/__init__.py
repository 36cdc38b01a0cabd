"""Benchmarks: `python -m bench NAME --json`. Each makes its own servers and data (seeded) and takes minutes at most."""
