"""Encoders: tile pixels to feature vectors, all behind one interface."""
