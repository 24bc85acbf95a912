"""What aectl adds to Hydra. All of it is imported at every start, so that it imports nothing heavy itself."""
