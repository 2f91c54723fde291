"""Many machines' findings as a short table."""

from __future__ import annotations

import pytest

from momu_dist.launch.doctor.finding import Finding, fold, node_names, table

FINE = Finding("scratch", "fine", "/tmp can be written")


@pytest.mark.parametrize(
    ("nodes", "names"),
    [
        (["node1", "node2"], "node[1-2]"),
        (["node3", "node1", "node2", "node7"], "node[1-3,7]"),
        (["gpu08", "gpu09", "gpu10"], "gpu[08-10]"),
        (["node9", "node09", "node010"], "node[09,9,010]"),
        (["login", "node1"], "login,node1"),
        (["a1", "b2"], "a1,b2"),
        (["rack1-node1", "rack1-node2"], "rack1-node[1-2]"),
    ],
)
def test_names_of_nodes_are_short(nodes: list[str], names: str) -> None:
    assert node_names(nodes) == names


def test_what_all_have_is_one_line_and_what_one_has_names_it() -> None:
    bad = Finding("scratch", "wrong", "/tmp cannot be used", "set another")
    lines = table({"node1": [FINE], "node2": [bad], "node3": [FINE]}).splitlines()
    assert lines == [
        "wrong  scratch  node2      /tmp cannot be used; set another",
        "fine   scratch  node[1,3]  /tmp can be written",
    ]
    assert table({"node1": [FINE], "node2": [FINE]}) == "fine  scratch  all 2 nodes  /tmp can be written"


def test_one_machine_needs_no_name() -> None:
    assert table({"here": [FINE]}) == "fine  scratch  /tmp can be written"


def test_amounts_become_a_range_and_versions_do_not() -> None:
    found = {f"n{free}": [Finding("disk", "fine", f"{free} GB free")] for free in (12, 9.5, 100)}
    ((finding, nodes),) = fold(found)
    assert finding.what == "9.5 to 100 GB free" and nodes == ["n12", "n9.5", "n100"]
    unlike = {f"n{n}": [Finding("versions", "fine", f"torch 2.{n}.0")] for n in (11, 13)}
    assert len(fold(unlike)) == 2


def test_checks_keep_their_order() -> None:
    later = Finding("data", "fine", "loads")
    found = {"a": [FINE], "b": [FINE, later], "c": [later]}
    assert [finding.check for finding, _ in fold(found)] == ["scratch", "data"]


def test_a_terminal_gets_colours_and_lines_that_fit() -> None:
    long = Finding("data", "warning", "word " * 30, "do this")
    text = table({"here": [long]}, width=60, colour=True)
    assert text.startswith("\033[33mwarning\033[0m  data  word")
    plain = table({"here": [long]}, width=60)
    assert all(len(line) <= 60 for line in plain.splitlines()) and len(plain.splitlines()) > 2
    assert all(line.startswith(" " * 15) for line in plain.splitlines()[1:])
