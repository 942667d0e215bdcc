"""Code generation: from IR and plans to the text of an emitted project."""
