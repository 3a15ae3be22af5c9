"""Ways of learning, a file each."""
