"""The commands of `tesserac`: one module each, a thin click command over the modules that do the work."""
