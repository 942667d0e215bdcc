"""tesserac: an ahead-of-time compiler from Tessera source to C++ and CUDA projects."""

__version__ = "0.1.0"
