"""Data-parallel training of one model by several processes, each on its part of every batch."""

from aectl.parallel.communication import (
    Lost,
    agree_on_reason,
    average,
    average_gradients,
    broadcast_numbers,
    broadcast_weights,
    count,
    local_count,
    local_rank,
    rank,
    reduce,
    take_part,
    wait_for_all,
)

__all__ = [
    "Lost",
    "agree_on_reason",
    "average",
    "average_gradients",
    "broadcast_numbers",
    "broadcast_weights",
    "count",
    "local_count",
    "local_rank",
    "rank",
    "reduce",
    "take_part",
    "wait_for_all",
]
