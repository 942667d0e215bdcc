"""`tesserac verify`: every CUDA kernel of a program alone, against the evaluator."""
