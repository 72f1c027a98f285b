"""The proofs of history as a whole: random walks of a real vault beside a model of plain dictionaries."""
