"""Experiments from training to report in one process, and grids of them."""
