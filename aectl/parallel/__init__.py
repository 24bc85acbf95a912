"""Training of one model by several processes, each on its part of every batch."""

from aectl.parallel.communication import (
    Lost,
    agreed,
    average,
    average_gradients,
    count,
    leaders,
    local_count,
    local_rank,
    match,
    meet,
    part,
    rank,
    reduce,
)

__all__ = [
    "Lost",
    "agreed",
    "average",
    "average_gradients",
    "count",
    "leaders",
    "local_count",
    "local_rank",
    "match",
    "meet",
    "part",
    "rank",
    "reduce",
]
