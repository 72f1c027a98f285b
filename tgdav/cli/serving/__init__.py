"""What ``serve`` and a mount need of a long-running process: its address, its mount, its control socket, its metrics."""
