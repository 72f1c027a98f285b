"""The way back: from a manifest to checked plaintext, the nearest copy first."""
