"""Many runs at once: what is to be run, beside each other, what became of them."""

from aectl.sweep.jobs import Job, read_jobs, settings
from aectl.sweep.table import SweepTable

__all__ = ["Job", "SweepTable", "read_jobs", "settings"]
