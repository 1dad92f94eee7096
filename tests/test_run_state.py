"""A unit that comes later stands as it is said to."""

import pytest

from socketpusher import Graph
from socketpusher.run_state import Progress, cells_needed


def test_a_unit_that_is_added_stands_as_its_node_says_and_is_in_the_payload() -> None:
    progress = Progress(Graph({"a": []}).payload())
    node = {"id": "b", "label": "b", "level": 0, "status": "failed", "tasks": 3, "completed_tasks": 2}
    progress.add(node)
    assert progress.standing("b") == ("failed", 3, 2)
    progress.apply(0, {"type": "unit.completed", "unit": "b"})
    assert [(node["id"], node["status"]) for node in progress.payload()["nodes"]] == [
        ("a", "pending"),
        ("b", "complete"),
    ]


def test_a_unit_is_not_added_to_cells_of_a_fixed_size() -> None:
    graph = Graph({"a": []}).payload()
    progress = Progress(graph, memoryview(bytearray(4 * cells_needed(graph))).cast("i"))
    with pytest.raises(TypeError, match="can't add the unit 'b'"):
        progress.add({"id": "b", "label": "b", "level": 0, "status": "pending", "tasks": 0, "completed_tasks": 0})
