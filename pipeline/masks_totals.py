"""What a mask job did, over all shards: counts, a histogram, a few lines of text, JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .masks_work import BINS, EMPTY_BELOW, FULL_ABOVE, ShardReport

_BLOCKS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class MasksReport:
    """What a run did."""

    method: str
    shards: tuple[ShardReport, ...]
    """In the order of the shards."""
    seconds: float
    surplus: tuple[str, ...] = ()
    """Files of an imported folder that belong to no sample."""

    def count(self, status: str) -> int:
        """Return how many shards are "made", "kept" or "failed"."""
        return sum(shard.status == status for shard in self.shards)

    def total(self, name: str) -> int:
        """Return the sum of a count of `ShardReport` over all shards: "samples", "masks", "undecodable", ..."""
        return sum(getattr(shard, name) for shard in self.shards)

    @property
    def histogram(self) -> tuple[int, ...]:
        """Masks by the share of their figure, in ten bins."""
        return tuple(sum(shard.histogram[i] for shard in self.shards) for i in range(BINS))

    @property
    def made(self) -> int:
        """Samples of the shards that this run made."""
        return sum(shard.samples for shard in self.shards if shard.status == "made")

    @property
    def unmatched(self) -> bool:
        """Whether masks were imported and not one file belongs to a sample: most likely another folder was meant."""
        return 0 < self.total("samples") == self.total("missing")

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, ready for JSON."""
        names = ("samples", "masks", "undecodable", "missing", "empty", "full")
        return {
            "method": self.method,
            "seconds": round(self.seconds, 3),
            "images_per_s": round(self.made / self.seconds, 2) if self.seconds else 0.0,
            "sidecars": {status: self.count(status) for status in ("made", "kept", "failed")},
            **{name: self.total(name) for name in names},
            "histogram": list(self.histogram),
            "surplus": list(self.surplus),
            "shards": [shard.to_dict() for shard in self.shards],
        }

    def __str__(self) -> str:
        rate = f", {self.made / self.seconds:.1f} images/s" if self.made and self.seconds else ""
        lines = [
            f"{self.method}: {self.count('made')} sidecars made, {self.count('kept')} kept, {self.count('failed')} failed; "
            f"{self.total('masks')} masks of {self.total('samples')} images{rate}"
        ]
        without = Counter(note for shard in self.shards for _, note in shard.without)
        if without:
            reasons = ", ".join(f"{times} x {note}" for note, times in without.most_common(4))
            lines.append(f"without a mask: {sum(without.values())} ({reasons})")
        if self.unmatched:
            key = next(shard.without[0][0] for shard in self.shards if shard.without)
            lines.append(f"no file has the name of a key: the mask of {key!a} would be {key + '.png'!a} in the folder")
        if self.surplus:
            lines.append(f"files that belong to no sample: {len(self.surplus)}, the first is {self.surplus[0]!a}")
        if self.total("masks"):
            lines.append(
                f"empty (figure below {EMPTY_BELOW:.0%}): {self.total('empty')}, full (above {FULL_ABOVE:.0%}): "
                f"{self.total('full')}"
                + (" (--json lists them)" if any(shard.unusable for shard in self.shards) else "")
            )
            lines.append(f"share of the figure, 0 to 1: [{_spark(self.histogram)}]")
        return "\n".join(lines)


def _spark(counts: Sequence[int]) -> str:
    most = max(counts)
    return "".join(_BLOCKS[-(-8 * count // most)] for count in counts)
