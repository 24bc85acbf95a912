"""Many runs at once: what is to be run, beside each other, what became of them."""

from aectl.sweep.results import Job, job_number, read_jobs, settings, sweep_of
from aectl.sweep.table import SweepTable

__all__ = ["Job", "SweepTable", "job_number", "read_jobs", "settings", "sweep_of"]
