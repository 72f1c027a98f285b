"""A vault on this machine: made, joined, unlocked, and the local state that belongs to it."""
