"""Names and notes of Events fit what kube-apiserver takes, whatever letters they are written in."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from proxymode_api.notes import NAME_LETTERS, NOTE_BYTES, event_name, note


@given(st.text(max_size=600).map(lambda text: text * 3))
def test_a_note_fits_and_says_as_much_as_fits(text: str) -> None:
    cut = note(text)
    assert len(cut.encode()) <= NOTE_BYTES
    if cut != text:
        assert len(text.encode()) > NOTE_BYTES
        assert cut.endswith("…")
        assert text.startswith(cut[:-1])
        assert len(cut.encode()) > NOTE_BYTES - 4


def test_letters_of_several_bytes_count_as_several() -> None:
    assert note("→" * 341) == "→" * 341
    assert note("→" * 342) == "→" * 340 + "…"


LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
SUBDOMAIN = rf"{LABEL}(\.{LABEL})*"


@given(st.from_regex(SUBDOMAIN, fullmatch=True).map(lambda name: (name * 40)[:NAME_LETTERS].rstrip(".-")))
def test_the_name_of_an_event_is_a_dns_subdomain_whatever_it_is_about(name: str) -> None:
    found = event_name(name, "0123456789abcdef")
    assert len(found) <= NAME_LETTERS
    assert re.fullmatch(SUBDOMAIN, found)
    assert found.startswith(name[:200].rstrip(".-"))
