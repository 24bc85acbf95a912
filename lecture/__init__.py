"""The lecture's figures, from real runs: `make figures` trains what is missing, draws, and writes docs/LECTURE.md."""
