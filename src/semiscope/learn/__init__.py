"""Training: one loop, many ways of learning."""
