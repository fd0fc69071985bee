"""What a recipe can do beside its views: masks of tokens, corrupted and mixed copies, one style for many samples.

Frozen dataclasses of distributions, as in `config`; `Recipe.with_...` puts them into a recipe. They name the views they act on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .config import View, _probability, whole_numbers

TokenPolicy = Literal["random", "figure", "ground", "proportional", "block"]
MAX_TOKENS = 64
"""Tokens along a side, at most."""
GROUPS = (2, 4, 8)


@dataclass(frozen=True)
class TokenMasks:
    """Tokens that masked image modelling hides: MAE's random ones, BEiT's blocks, or led by the figure (Chin et al. 2024)."""

    patch: int = 16
    """Side of a token [px]; must divide the side of the views."""
    ratio: float = 0.75
    """Share of the tokens that are hidden; their number is the same for each view: rounded to nearest."""
    by: TokenPolicy = "random"
    """Where: "random" anywhere; "figure" or "ground" there first and the rest elsewhere; "proportional" by their shares; "block"
    rectangles anywhere. A token is figure if its mean mask is at least one half; without a mask all is ground, hence random."""
    views: tuple[int, ...] = (0,)
    """Views that get masks."""

    @property
    def led(self) -> bool:
        """True if the views' masks decide."""
        return self.by in ("figure", "ground", "proportional")

    def check(self, views: Sequence[View]) -> None:
        """Raise ValueError if an argument is out of range or does not fit the views."""
        _probability("TokenMasks", ratio=self.ratio)
        if self.by not in ("random", "figure", "ground", "proportional", "block"):
            raise ValueError(
                f"TokenMasks: by must be 'random', 'figure', 'ground', 'proportional' or 'block', got {self.by!r}"
            )
        check_views("TokenMasks", self.views, views)
        for i in self.views:
            check_patch("TokenMasks", self.patch, views[i])
            size, shuffle = views[i].crop.size, views[i].patch_shuffle
            if size // self.patch > MAX_TOKENS:
                raise ValueError(
                    f"TokenMasks: patch must give at most {MAX_TOKENS} tokens along {size} px, got {self.patch}"
                )
            if self.led and shuffle is not None:
                raise ValueError(
                    f"TokenMasks: by must be 'random' or 'block' for view {i}, whose patches are shuffled away from their mask, "
                    f"got {self.by!r}"
                )


@dataclass(frozen=True)
class BlockCorruption:
    """A corrupted copy of views (SiT: Atito, Awais and Kittler 2021; "GMML is all you need"): blocks are covered by noise, or by
    another sample's pixels.

    As in the authors' code, a view is corrupted in one of two ways. With probability `partner_p` by the same view of another
    sample, up to `partner_share` of its area; else by `fill`, up to `max_share`. In their code the other sample is any of the
    batch; here one of the same aligned block of 8 positions of the epoch's order, as background donors are.
    """

    max_share: float = 0.5
    """Largest share of the area that `fill` covers; the share is uniform in min(0.5, max_share) .. max_share."""
    max_block: float = 0.3
    """Largest side of a block, as a share of the view's."""
    grid: int = 1
    """Blocks lie on, and measure, multiples of this many pixels: 1, or the patch side of a vision transformer."""
    fill: Literal["noise", "zero"] = "noise"
    """Noise that is nearly N(0, 1) after ImageNet's normalisation, or the colour nearest to zero after it."""
    partner_p: float = 0.5
    """Probability of the other sample's pixels: the authors' 1 / (fills + 1); 0: never."""
    partner_share: float = 0.3
    """As `max_share`, for the other sample's pixels."""
    views: tuple[int, ...] = (0,)
    """Views that get a corrupted copy."""

    def check(self, views: Sequence[View]) -> None:
        """Raise ValueError if an argument is out of range or does not fit the views."""
        _probability(
            "BlockCorruption", max_share=self.max_share, max_block=self.max_block, partner_p=self.partner_p,
            partner_share=self.partner_share,
        )  # fmt: skip
        if self.fill not in ("noise", "zero"):
            raise ValueError(f"BlockCorruption: fill must be 'noise' or 'zero', got {self.fill!r}")
        check_views("BlockCorruption", self.views, views)
        whole_numbers("BlockCorruption", grid=self.grid)
        for i in self.views:
            size = views[i].crop.size
            if self.grid < 1 or int(size * self.max_block) <= self.grid:
                raise ValueError(
                    f"BlockCorruption: max_block must give blocks of more than grid = {self.grid} px, got {self.max_block} of "
                    f"{size} px"
                )


@dataclass(frozen=True)
class GroupMixing:
    """A mixed copy of views (MixedAE: Chen et al. 2023): at each patch position a random permutation across a group of samples.

    A group is an aligned run of `group` positions of the epoch's order, so a batch whose size is a multiple of it holds whole
    groups: rows 0 .. group - 1, and so on. With drop_last=False the last, smaller batch of a rank may hold parts of groups: their
    copies are mixed all the same, with members that are not in the batch. A group that the epoch's end cuts off is not mixed.
    """

    group: int = 4
    """Samples of a group: 2, 4 or 8. MixedAE's mixing ratio is 1 / group."""
    patch: int = 16
    """Side of a patch [px]; must divide the side of the views."""
    views: tuple[int, ...] = (0,)
    """Views that get a mixed copy."""

    def check(self, views: Sequence[View]) -> None:
        """Raise ValueError if an argument is out of range or does not fit the views."""
        if self.group not in GROUPS:
            raise ValueError(f"GroupMixing: group must be 2, 4 or 8 samples, got {self.group}")
        check_views("GroupMixing", self.views, views)
        for i in self.views:
            check_patch("GroupMixing", self.patch, views[i])


@dataclass(frozen=True)
class StyleTransfer:
    """One style for a block of samples (Batch Styles Standardization: Scalbert, Vakalopoulou and Couzinie-Devy).

    For each view, one sample of a block lends the low-frequency amplitudes of its own view to all samples of the block; each
    keeps its phase. Which one is drawn by (seed, epoch, block, view) alone. It acts on the finished 8-bit view: after crop,
    background, colour and blur, before patch shuffles, solarize and normalisation; negatives of the query get its style too.

    Window and ratio of the paper are not in the sources that could be read: the defaults are the kernel's.
    """

    block: int
    """Positions of the epoch's order that share a style: aligned runs, so that a view depends on neither batch nor rank. The
    global batch size (batch_size x world_size) gives the paper's one style a batch. Where the lender is not in a rank's
    batch, it is decoded in addition."""
    window: float = 0.1
    """Half the side of the window of frequencies, as a share of the view's side, 0 .. 0.5."""
    ratio: float = 1.0
    """How much of the style, 0 .. 1."""
    p: float = 1.0
    """Probability, for each block and view."""
    views: tuple[int, ...] = (0,)
    """Views whose style is changed."""

    def check(self, views: Sequence[View]) -> None:
        """Raise ValueError if an argument is out of range or does not fit the views."""
        _probability("StyleTransfer", ratio=self.ratio, p=self.p)
        whole_numbers("StyleTransfer", block=self.block)
        if self.block < 2:
            raise ValueError(f"StyleTransfer: block must be at least 2 positions, got {self.block}")
        if not 0.0 <= self.window <= 0.5:
            raise ValueError(f"StyleTransfer: window must be in 0 .. 0.5, got {self.window}")
        check_views("StyleTransfer", self.views, views)


def check_views(owner: str, chosen: tuple[int, ...], views: Sequence[View]) -> None:
    """Raise ValueError if a chosen view is not there."""
    for i in chosen:
        if not 0 <= i < len(views):
            raise ValueError(f"{owner}: views must be in 0..{len(views) - 1}, got {i}")


def check_patch(owner: str, patch: int, view: View) -> None:
    """Raise ValueError if patches do not tile a view."""
    whole_numbers(owner, patch=patch)
    if patch < 1 or view.crop.size % patch:
        raise ValueError(f"{owner}: patch must divide the side of the view, {view.crop.size} px, got {patch}")
