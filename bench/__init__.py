"""Benchmarks of emitted programs against PyTorch and JAX; `make bench` runs them."""
