"""A beginning that several files share is kept and hashed once, and each is whole all the same."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from edgekit.headed import Head, Headed, outline, parts, sha256


@given(st.lists(st.binary()), st.lists(st.binary(), min_size=1))
def test_files_that_begin_alike_have_their_own_hashes(beginning: list[bytes], endings: list[bytes]) -> None:
    head = Head(*beginning)
    for ending in endings:
        whole = Headed(head, ending, b"", bytes)
        assert bytes(whole) == b"".join(parts(whole)) == b"".join(beginning) + ending
        assert len(whole) == len(bytes(whole))
        assert sha256(whole) == hashlib.sha256(bytes(whole)).hexdigest()


@given(st.binary())
def test_what_has_no_head_is_hashed_as_it_is(data: bytes) -> None:
    assert sha256(data) == hashlib.sha256(data).hexdigest()
    assert outline(data) is data
    assert parts(data) == (data,)
