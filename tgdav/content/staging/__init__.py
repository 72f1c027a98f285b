"""Content on its way in: what is on this machine and not yet in the store."""
