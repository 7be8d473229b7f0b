"""Self-supervised training of an encoder on the tiles of one's own slides."""
