"""THE file system API, which every front end uses: sync, thread-safe, POSIX-shaped."""
