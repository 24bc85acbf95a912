"""Evaluated runs side by side: a table for each ability, a row for each run; on the terminal, as CSV and Markdown."""

from aectl.leaderboard.boards import Board, boards
from aectl.leaderboard.files import write
from aectl.leaderboard.show import show

__all__ = ["Board", "boards", "show", "write"]
