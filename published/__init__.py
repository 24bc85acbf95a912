"""The published rows as experiments: what a small machine can run of them, run, and the table of what came out."""
