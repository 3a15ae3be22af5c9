"""From a trained network to a small fast file."""
