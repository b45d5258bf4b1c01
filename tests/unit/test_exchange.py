"""A record that is encoded in pieces, since its bodies are long, reads as one that is not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mooring.exchange import Exchange, decode, encode, encoded

LONG = 2**16
bodies = st.builds(
    lambda size, kind: kind(b"x" * size),
    st.sampled_from([0, 1, LONG - 1, LONG, LONG + 1, 3 * LONG]),
    st.sampled_from([bytes, bytearray]),
)
texts = st.text(max_size=300)


@given(
    request=bodies,
    response=bodies,
    headers=st.dictionaries(texts, texts, max_size=20),
    errors=st.lists(st.sampled_from(["truncated", "client_gone"])),
    version=st.none() | texts,
    time_ns=st.integers(0, 2**63 - 1),
    sampling=st.floats(0, 1),
)
def test_a_long_record_in_pieces_is_the_same_bytes(**values):
    exchange = Exchange(request_id="id", **values)
    found = encoded(exchange)
    whole = found if isinstance(found, bytes) else b"".join(found)
    assert whole == encode(exchange)
    assert decode(whole).request == bytes(exchange.request)
