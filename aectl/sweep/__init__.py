"""Sweeps: many runs of one command, side by side on this machine or on a cluster, and their results."""

from aectl.sweep.results import Job, read_jobs
from aectl.sweep.table import SweepTable

__all__ = ["Job", "SweepTable", "read_jobs"]
