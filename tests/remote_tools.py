"""What tests of remote shards share."""

from __future__ import annotations

from figureground.shards.reader import Store
from figureground.shards.remote import Remote


def same_samples(one: Store, other: Store) -> None:
    """Check that two stores hold the same keys and images."""
    assert len(one) == len(other)
    for sample in range(len(one)):
        assert one.key(sample) == other.key(sample)
        assert bytes(one.image(sample)) == bytes(other.image(sample))


def read_all(remote: Remote, url: str, start: int = 0) -> bytes:
    """Read a file to its end."""
    return b"".join(remote.blocks(remote.look(url), start))
