"""WebDataset shards on disk: pack, index, check, read at random, sidecar masks."""

from .errors import ShardError
from .mask_store import MaskStore
from .patterns import expand
from .reader import Store

__all__ = ["MaskStore", "ShardError", "Store", "expand"]
