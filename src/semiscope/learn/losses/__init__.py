"""Losses and the assignment of truth to predictions."""
