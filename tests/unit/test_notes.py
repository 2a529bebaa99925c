"""Notes of Events fit what kube-apiserver takes, whatever letters they are written in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxymode_api.notes import NOTE_BYTES, note


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
