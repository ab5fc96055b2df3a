"""Solve the assignment problem: pair rows with columns at the least total cost."""

import math
from collections.abc import Sequence


def assign(costs: Sequence[Sequence[float]]) -> list[int | None]:
    """Pair as many rows with columns as possible, at the least total cost.

    The Hungarian algorithm with potentials (Kuhn 1955, Munkres 1957), O(rows² × columns). It is written here because
    serving does not need scipy otherwise.

    Args:
        costs: Cost of each row (detection) with each column (track); infinite where they must not be paired.

    Returns:
        Column of each row; None for a row without one.
    """
    rows, columns = len(costs), len(costs[0]) if costs else 0
    if not columns:
        return [None] * rows
    # One extra column for each row means "not assigned". It costs more than any assignment of all rows.
    unassigned = 1.0 + 2 * sum(max((cost for cost in row if cost < math.inf), default=0.0) for row in costs)
    forbidden = 2 * rows * unassigned
    table = [
        [min(cost, forbidden) for cost in row] + [unassigned if i == index else forbidden for i in range(rows)]
        for index, row in enumerate(costs)
    ]
    return [column if column < columns else None for column in _hungarian(table)]


def _hungarian(table: list[list[float]]) -> list[int]:
    """Return the column of each row at the least total cost; there are at least as many columns as rows."""
    rows, columns = len(table), len(table[0])
    row_of = [-1] * (columns + 1)  # the extra last column is the root of each search
    row_potential, column_potential = [0.0] * rows, [0.0] * (columns + 1)
    for start in range(rows):
        row_of[columns], current = start, columns
        slack, previous, visited = [math.inf] * columns, [columns] * columns, [False] * (columns + 1)
        while row_of[current] != -1:  # grow the tree of alternating paths until it reaches a free column
            visited[current], row, delta, nearest = True, row_of[current], math.inf, -1
            for column in range(columns):
                if visited[column]:
                    continue
                reduced_cost = table[row][column] - row_potential[row] - column_potential[column]
                if reduced_cost < slack[column]:
                    slack[column], previous[column] = reduced_cost, current
                if slack[column] < delta:
                    delta, nearest = slack[column], column
            for column in range(columns + 1):
                if visited[column]:
                    row_potential[row_of[column]] += delta
                    column_potential[column] -= delta
                elif column < columns:
                    slack[column] -= delta
            current = nearest
        while current != columns:  # flip the path
            row_of[current], current = row_of[previous[current]], previous[current]
    column_of = [0] * rows
    for column, row in enumerate(row_of[:columns]):
        if row != -1:
            column_of[row] = column
    return column_of
