"""The log's way to and from the store: segments, checkpoints, pushing, surveying, rebuilding."""
