"""Multiple-instance learning: one bag of tiles, one label."""
