"""The picture of cold starts against money."""

from __future__ import annotations

from xml.etree import ElementTree

from warmup.simulate.pareto import Spot, draw, front

SPOTS = [Spot("a", 10, 1.0), Spot("b", 4, 2.0), Spot("worse", 5, 3.0), Spot("c", 0, 9.0), Spot("dearer", 0, 10.0)]


def test_the_front_has_those_that_nobody_betters_in_both() -> None:
    assert [spot.name for spot in front(SPOTS)] == ["a", "b", "c"]


def test_it_is_xml_with_a_mark_and_a_name_for_each() -> None:
    tree = ElementTree.fromstring(draw("cold <starts> & money", SPOTS))
    space = "{http://www.w3.org/2000/svg}"
    assert len(tree.findall(f"{space}circle")) == 5
    assert {spot.name for spot in SPOTS} <= {text.text for text in tree.iter(f"{space}text")}


def test_policies_without_cold_starts_or_cost_can_be_drawn() -> None:
    ElementTree.fromstring(draw("nothing", [Spot("always", 0, 0)]))


def test_names_do_not_lie_over_each_other() -> None:
    tree = ElementTree.fromstring(draw("close", [Spot(f"idle:{number}", 1, 1 + number / 1000) for number in range(6)]))
    names = [text for text in tree.iter("{http://www.w3.org/2000/svg}text") if text.get("class") == "name"]
    heights = [float(name.attrib["y"]) for name in names]
    assert len(heights) == 6
    assert min(abs(one - other) for one in heights for other in heights if one is not other) > 8
