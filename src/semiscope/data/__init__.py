"""Data sets: what they hold, how they are split, balanced and augmented."""
