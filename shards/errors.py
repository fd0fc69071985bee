"""The one error of this folder: something is wrong with a shard, its index or its masks."""


class ShardError(ValueError):
    """A shard, an index or a sidecar that cannot be used; the message names the file and says what to do."""
