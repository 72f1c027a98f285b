"""The tree: journal (the only way to change it), applying operations, and questions about it."""
