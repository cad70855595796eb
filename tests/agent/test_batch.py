"""Lines on their way to Redis, put into its protocol by hand."""

import hiredis
from hypothesis import given
from hypothesis import strategies as st

from agent.batch import KEPT, Batch

text = st.binary(max_size=40)


@given(st.lists(st.tuples(text, st.lists(text | st.just(b"x" * KEPT)))), st.integers(1, 20))
def test_a_batch_is_the_lines_with_their_prefixes_in_order(runs: list[tuple[bytes, list[bytes]]], most: int) -> None:
    batch = Batch()
    for prefix, lines in runs:
        batch.add(prefix, lines)
    whole = [prefix + line for prefix, lines in runs for line in lines]

    assert batch.rpush("job_logs:ä") == hiredis.pack_command(("RPUSH", "job_logs:ä", *whole))  # type: ignore[arg-type]
    assert (batch.count, batch.size) == (len(whole), sum(map(len, whole)))
    assert batch.newest(most) == whole[-most:]
    assert not whole or batch.first == whole[0]
