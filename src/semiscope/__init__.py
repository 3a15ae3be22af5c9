"""Finds, outlines, classifies and measures defects and structures in semiconductor images."""

__version__ = "0.1.0"
