"""The formats of content: chunks, manifests and packs. Pure."""
