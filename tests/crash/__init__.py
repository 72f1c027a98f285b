"""Proofs of durability and integrity, and the self-tests of the machinery they run on."""
