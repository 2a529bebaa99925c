"""Terminal pictures: files that need nothing else, and films in which one frame is seen at any time."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

from rich.text import Text

from proxymode_pictures.svg import LAST_SECONDS, film, still

FRAMES = [(0.0, Text("canary 0/1")), (3.0, Text("canary 1/1\nhalf 0/2", "green")), (5.0, Text("half <2/2> & done"))]


def test_a_still_is_one_file() -> None:
    found = still(Text("fleet → nftables", "bold green"), title="kubectl proxymode status")
    ElementTree.fromstring(found)
    assert "http" not in found.replace("http://www.w3.org/2000/svg", "")
    assert "fleet&#160;→&#160;nftables" in found
    assert "kubectl&#160;proxymode&#160;status" in found


def test_a_film_shows_each_frame_in_its_time_and_the_last_where_nothing_moves() -> None:
    found = film(FRAMES, title="kubectl proxymode watch")
    root = ElementTree.fromstring(found)
    groups = [group.get("class") for group in root.iter("{http://www.w3.org/2000/svg}g")]
    assert [name for name in groups if name and name.startswith("frame")] == ["frame f0", "frame f1", "frame f2"]
    total = 5.0 + LAST_SECONDS
    for name, begin, end in (("f0", 0.0, 3.0), ("f1", 3.0, 5.0), ("f2", 5.0, total)):
        rule = re.search(rf"@keyframes {name} {{ (.*?) }} \.", found)
        assert rule is not None
        steps = [(float(at), what) for at, what in re.findall(r"([\d.]+)% { visibility: (\w+); }", rule[1])]
        for second in (0.1, 2.9, 3.1, 4.9, 5.1, total - 0.1):
            share = 100 * second / total
            state = [what for at, what in steps if at <= share][-1]
            assert (state == "visible") == (begin <= second < end), (name, second)
    assert ".frame { visibility: hidden; } .f2 { visibility: visible; }" in found
    assert "http" not in found.replace("http://www.w3.org/2000/svg", "")


def test_frames_are_all_as_high_as_the_highest() -> None:
    height = float((ElementTree.fromstring(film(FRAMES, title="t")).get("viewBox") or "").split()[3])
    one = float((ElementTree.fromstring(still(Text("a\nb"), title="t")).get("viewBox") or "").split()[3])
    assert height == one
