"""Initial masks for whole folders, and the cycle of correcting and learning again."""
