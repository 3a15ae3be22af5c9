"""Lengths, areas and angles in the units of the specimen."""
