"""The tree: the journal, which is the only way to change it, the application of operations, and queries."""
