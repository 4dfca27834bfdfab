"""A project that burns all that it may, and its neighbour: nothing of the one's is felt in how the other's calls end."""

from tests.prove.neighbours import BURNERS, neighbours
from tests.systemd.box import Box


def test_a_neighbours_calls_all_succeed_while_another_project_burns_all_it_may(box: Box) -> None:
    found = neighbours(box, 20, clients_of_each=1)
    assert found.statuses == {200: 40}
    assert found.burnt == [{status} for status in BURNERS.values()]
