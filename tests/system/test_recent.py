"""The bounded cache keeps what was used last."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from blip2_chat.system.recent import Recent


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 9))), st.integers(1, 20))
def test_holds_the_longest_run_of_last_used_entries_within_the_limit(
    puts: list[tuple[int, int]], limit: int
) -> None:
    """The expected entries are counted back from the end of the history."""
    cache: Recent[int, int] = Recent(limit, lambda size: size)
    for at, (key, size) in enumerate(puts):
        cache.put(key, size)
        assert cache.items()[-1] == (key, size), "the last one stays whatever its size"
        assert len(cache) == 1 or sum(size for _, size in cache.items()) <= limit
        history = [one for one, _ in puts[: at + 1]]
        last_put = [max(i for i, one in enumerate(history) if one == key) for key, _ in cache.items()]
        assert last_put == sorted(last_put)


def test_use_keeps_an_entry_and_putting_it_again_replaces_it() -> None:
    cache: Recent[str, int] = Recent(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert cache.get("b") is None
    cache.put("a", 4)
    assert cache.items() == [("c", 3), ("a", 4)]
