"""Views of a compilation for its reader: what was inferred, the stages, the kernels and where they come from."""
