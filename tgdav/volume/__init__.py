"""The composition root: from a configuration and a secret to an open volume, and its life."""
