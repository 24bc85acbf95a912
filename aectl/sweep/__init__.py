"""Sweeps: many runs of one command, in parallel on this machine or on a cluster, and their results."""

from aectl.sweep.results import Job, read_jobs
from aectl.sweep.table import SweepTable

__all__ = ["Job", "SweepTable", "read_jobs"]
