"""A ranking read lazily is the plain sort."""

import random

import numpy as np
import pytest

from proserve_core.batching.ranking import Ranking


@pytest.mark.parametrize("count", [0, 1, 40, 513, 3000])
def test_groups_follow_each_other_and_equal_keys_keep_their_positions(count: int) -> None:
    draw = random.Random(count)
    key = np.array([float(draw.randint(0, 30)) for _ in range(count)])
    group = np.array([draw.choice([0, 1, 1, 1]) for _ in range(count)], dtype=int)
    ranking = Ranking()
    ranking.add(group == 0, key)
    ranking.add(group == 1, 2 * key)
    want = sorted(range(count), key=lambda place: (group[place], -key[place], place))
    assert [place for part in ranking.parts() for place in part.tolist()] == want
    assert ranking.first(17).tolist() == [place for place in want if place < 17]


def test_positions_are_counted_by_the_names_of_their_groups() -> None:
    ranking = Ranking()
    ranking.add(np.array([True, True, False, False]), np.zeros(4), "urgent", "decode")
    ranking.add(np.array([False, False, True, False]), np.zeros(4), "urgent")
    ranking.add(np.array([False, False, False, True]), np.zeros(4), "normal")
    assert ranking.count("urgent") == 3
    assert ranking.count("decode", "normal") == 3
    assert ranking.count("hopeless") == 0
