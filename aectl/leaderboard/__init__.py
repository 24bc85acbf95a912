"""Leaderboards of evaluated runs: a table for each ability, on the terminal, as CSV and as Markdown."""

from aectl.leaderboard.boards import Board, build_boards
from aectl.leaderboard.files import write
from aectl.leaderboard.show import show

__all__ = ["Board", "build_boards", "show", "write"]
