"""What aectl adds to Hydra: launchers and sweepers. Hydra imports all of it at every start, so it imports nothing heavy."""
