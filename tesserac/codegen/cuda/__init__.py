"""The CUDA renderer: kernel records as ordinary CUDA C++."""
