"""Region of interest: the package found in a photograph and made upright."""
