import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from moodreel.faces.assignment import assign


def test_assignment_has_the_least_total_cost():
    # The first row takes its second-best column, or there would be none for the second row.
    assert assign([[1.0, 2.0], [1.5, math.inf]]) == [1, 0]
    assert assign([[1.0, math.inf], [0.5, math.inf]]) == [None, 0]
    assert assign([[math.inf], [math.inf]]) == [None, None]
    assert assign([[], []]) == [None, None]
    assert assign([]) == []


@given(st.integers(1, 5), st.integers(1, 5), st.randoms(use_true_random=False))
def test_assignment_is_as_good_as_exhaustive_search(rows, columns, random):
    costs = [[random.choice([random.random(), math.inf]) for _ in range(columns)] for _ in range(rows)]

    def objective(columns_of_rows):
        pairs = [(row, column) for row, column in enumerate(columns_of_rows) if column is not None]
        return -len(pairs), round(sum(costs[row][column] for row, column in pairs), 9)

    all_assignments = (
        assignment
        for assignment in itertools.product([None, *range(columns)], repeat=rows)
        if len({c for c in assignment if c is not None}) == sum(c is not None for c in assignment)
        and all(c is None or costs[row][c] < math.inf for row, c in enumerate(assignment))
    )
    assert objective(assign(costs)) == min(map(objective, all_assignments))
