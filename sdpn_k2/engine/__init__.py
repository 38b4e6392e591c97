"""Training and extraction."""
