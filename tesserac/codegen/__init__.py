"""Code generation: staged programs to kernel records, kernel records to text, text to a project."""
