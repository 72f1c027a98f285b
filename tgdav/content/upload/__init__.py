"""From staging to the store: which packs are sent, and when."""
