"""The same training steps for PyTorch and JAX. Each module runs as a program of its own and prints one JSON line."""
