"""``check``: is everything there and intact, on this machine and in the store; and ``--repair``."""
