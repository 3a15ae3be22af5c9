"""Figures: detection, and how fast."""
