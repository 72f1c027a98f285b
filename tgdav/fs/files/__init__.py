"""Open files: their writes, how these are committed, and how they survive the end of the process until then."""
