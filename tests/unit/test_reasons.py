"""Every reason and every preflight check has exactly one page, and there is no page on what nobody says."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from proxymode_agent.preflight.checks import CHECKS
from proxymode_api.deprecation import DeprecationState
from proxymode_api.reasons.codes import Reason
from proxymode_api.reasons.explain import CHAPTERS, PAGES, find, nearest
from proxymode_api.reasons.page import Mood
from proxymode_operator.rollout.revisions import EARLY

ROOT = Path(__file__).parents[2]
WRITERS = [path for part in ("agent", "operator") for path in sorted((ROOT / part).rglob("*.py"))]

FROM_OTHER_WORDS = {*map(str, DeprecationState), *map(str, EARLY)}
"""Reasons that are made of another enum's words where they are written."""


def test_every_reason_and_every_check_has_one_page() -> None:
    written = Counter(str(page.code) for pages in CHAPTERS.values() for page in pages)
    wanted = {*map(str, Reason), *(check.id for check in CHECKS)}
    assert sorted(wanted - set(written)) == [], "write a page in proxymode_api.reasons"
    assert sorted(set(written) - wanted) == [], "nobody says this any more: take its page out"
    assert [code for code, pages in written.items() if pages > 1] == []


def test_every_reason_is_written_by_somebody() -> None:
    named = {name for path in WRITERS for name in re.findall(r"\bReason\.([A-Z_]+)\b", path.read_text())}
    assert sorted(str(reason) for reason in Reason if reason.name not in named and reason not in FROM_OTHER_WORDS) == []


@pytest.mark.parametrize("word", sorted(FROM_OTHER_WORDS))
def test_words_that_become_reasons_are_reasons(word: str) -> None:
    assert Reason(str(word)) in Reason


def test_pages_say_something() -> None:
    for page in PAGES.values():
        assert page.shown, page.code
        for text in (page.means, page.do):
            assert not text or (text[0] != " " and text.endswith(".") and "  " not in text), page.code
        assert page.means
        assert page.do or page.mood not in (Mood.LOOK, Mood.CHECK), f"{page.code}: somebody should look, and do what?"


def test_a_code_is_found_whatever_its_case_and_a_misspelt_one_is_guessed() -> None:
    page = find("nodesblocked")
    assert page is not None
    assert page.code == "NodesBlocked"
    assert find("Nonsense") is None
    assert nearest("kernel-versoin")[0] == "kernel-version"
    assert nearest("qqqqqqqq") == []
