"""A hash that is taken of a shared beginning once is the hash of the whole."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from edgekit.headed import Head, Headed, sha256


@given(st.lists(st.binary()), st.lists(st.binary(), min_size=1))
def test_files_that_begin_alike_have_their_own_hashes(parts: list[bytes], endings: list[bytes]) -> None:
    head = Head(*parts)
    for ending in endings:
        whole = Headed.joined(head, ending)
        assert whole == b"".join(parts) + ending
        assert sha256(whole) == hashlib.sha256(bytes(whole)).hexdigest()


@given(st.binary())
def test_what_has_no_head_is_hashed_as_it_is(data: bytes) -> None:
    assert sha256(data) == hashlib.sha256(data).hexdigest()
