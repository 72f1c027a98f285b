"""The file system for all front ends: synchronous, thread-safe, with the semantics of POSIX."""
