"""A recipe: the views of a sample, its extra negatives, the user's own stages and the normalisation.

Presets are in `recipes`. Change one with `dataclasses.replace`, or with the `with_...` methods.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from .config import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Background,
    BackgroundMode,
    Crop,
    Donors,
    Fill,
    LabelAugmentation,
    NegativeKind,
    Negatives,
    Pair,
    PairKind,
    PatchShuffle,
    Region,
    Source,
    View,
)
from .techniques import BlockCorruption, GroupMixing, StyleTransfer, TokenMasks, TokenPolicy

StagePoint = Literal["composite", "color", "normalize"]


@dataclass(frozen=True)
class Stage:
    """A user's own kernel in a recipe; see `Recipe.with_stage`."""

    function: Callable[[Any, Any], Any]
    after: StagePoint = "composite"

    def __post_init__(self) -> None:
        if self.after not in ("composite", "color", "normalize"):
            raise ValueError(f"Stage: after must be 'composite', 'color' or 'normalize', got {self.after!r}")
        if not callable(self.function):
            raise TypeError(f"Stage: function must be callable as f(views, rows), got {type(self.function).__name__}")


@dataclass(frozen=True)
class Recipe:
    """The views of a sample, its extra negatives and the normalisation."""

    name: str
    views: tuple[View, ...]
    stages: tuple[Stage, ...] = ()
    """Kernels of the user's own, run in this order at their points."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Per channel, of values in [0, 1]."""
    std: tuple[float, float, float] = IMAGENET_STD
    negatives: Negatives | None = None
    """Extra negatives of each query, handed out by `format="dict"`; the swap negative comes before them."""
    token_masks: TokenMasks | None = None
    corruption: BlockCorruption | None = None
    mixing: GroupMixing | None = None
    style: StyleTransfer | None = None

    def __post_init__(self) -> None:
        if not self.views:
            raise ValueError("Recipe: views must hold at least one View, got none")
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ValueError(f"Recipe: mean and std must be three numbers each, got {self.mean} and {self.std}")
        if min(self.std) <= 0:
            raise ValueError(f"Recipe: std must be positive, got {self.std}")
        if self.negatives is not None and self.negatives.kind == "patch" and self.views[0].crop.size < 2:
            raise ValueError("Recipe: the first view must be at least 2 px wide for patch negatives, got 1 px")
        for technique in (self.token_masks, self.corruption, self.mixing, self.style):
            if technique is not None:
                technique.check(self.views)

    @property
    def uses_masks(self) -> bool:
        """True if a view needs masks."""
        led = self.token_masks is not None and self.token_masks.led
        return led or any(
            view.background is not None
            or (view.patch_shuffle is not None and view.patch_shuffle.region != "all")
            or view.crop.figure is not None
            or view.crop.anchor == "object"
            for view in self.views
        )

    @property
    def anchors(self) -> bool:
        """True if a view's crop follows the object."""
        return any(view.crop.anchor == "object" for view in self.views)

    @property
    def inpaints(self) -> bool:
        """True if a view needs the masks of its background donors."""
        return any(v.background is not None and v.background.source != "whole" for v in self.views)

    @property
    def uses_textures(self) -> bool:
        """True if the negatives are textures from files."""
        return self.negatives is not None and self.negatives.kind == "texture-file"

    @property
    def swaps(self) -> bool:
        """True if the first view swaps its background, so that a swap negative is made."""
        first = self.views[0].background
        return first is not None and first.mode == "swap"

    def with_background(
        self,
        mode: BackgroundMode,
        *,
        p: float = 0.2,
        fill: Fill = "grey",
        color: tuple[int, int, int] = (124, 116, 104),
        min_area: float = 0.02,
        max_area: float = 0.95,
        source: Source = "whole",
        other_class: bool = False,
        donors: Donors = "block",
        past: int = 256,
        views: tuple[int, ...] | None = None,
    ) -> Recipe:
        """Return the recipe with a background augmentation on its global views.

        Parameters
        ----------
        mode, p, fill, color, min_area, max_area, source, other_class, donors, past
            See `Background`.
        views : tuple of int, optional
            Which views; by default those of the largest crop size (the global crops).

        Examples
        --------
        >>> Recipe("two", (View(), View())).with_background("swap", p=0.3).views[1].background.p
        0.3
        """
        background = Background(mode, p, fill, color, min_area, max_area, source, other_class, donors, past)
        chosen = self._chosen("with_background", views)
        changed = tuple(replace(v, background=background) if i in chosen else v for i, v in enumerate(self.views))
        return replace(self, views=changed)

    def with_negatives(self, kind: NegativeKind, *, count: int = 1, side: tuple[int, int] = (16, 72)) -> Recipe:
        """Return the recipe with extra negatives; see `Negatives`.

        Examples
        --------
        >>> Recipe("one", (View(),)).with_negatives("patch", count=2).negatives.count
        2
        """
        return replace(self, negatives=Negatives(kind, count, side))

    def with_patch_shuffle(
        self,
        grid: int,
        *,
        p: float = 0.2,
        fraction: float = 1.0,
        region: Region = "all",
        views: tuple[int, ...] | None = None,
    ) -> Recipe:
        """Return the recipe with shuffled patches on some views (default: the global crops); see `PatchShuffle`.

        Examples
        --------
        >>> Recipe("one", (View(),)).with_patch_shuffle(4, region="ground").views[0].patch_shuffle.grid
        4
        """
        shuffle = PatchShuffle(grid, p, fraction, region)
        chosen = self._chosen("with_patch_shuffle", views)
        changed = tuple(replace(v, patch_shuffle=shuffle) if i in chosen else v for i, v in enumerate(self.views))
        return replace(self, views=changed)

    def with_figure_crops(
        self,
        *,
        min_share: float = 0.2,
        max_share: float = 1.0,
        tries: int = 10,
        views: tuple[int, ...] | None = None,
    ) -> Recipe:
        """Return the recipe with random crops that hold a share of the figure within a range; see `figure_crops`.

        Parameters
        ----------
        min_share, max_share : float
            Of the mask's mass, in [0, 1]. `min_share` alone keeps the object in the crop; `max_share` alone loses it.
        tries : int
            Crops that are drawn for each view, 1..100.
        views : tuple of int, optional
            Which views; by default those of the largest crop size (the global crops).

        Examples
        --------
        >>> Recipe("one", (View(),)).with_figure_crops(min_share=0.5).views[0].crop.figure
        (0.5, 1.0)
        """
        chosen = self._chosen("with_figure_crops", views)
        figure = (min_share, max_share)
        changed = tuple(
            replace(v, crop=replace(v.crop, figure=figure, tries=tries)) if i in chosen else v
            for i, v in enumerate(self.views)
        )
        return replace(self, views=changed)

    def with_label_augmentation(
        self, *, rotation: bool = True, colors: bool = True, views: tuple[int, ...] | None = None
    ) -> Recipe:
        """Return the recipe with a drawn rotation and order of channels on some views (default: the global crops).

        The swap negative and the other negatives of a query are turned as the query is. See `LabelAugmentation`, and
        `label_targets.joint_targets` for the labels; `label_targets.expand_labels` makes all transformations instead.

        Examples
        --------
        >>> Recipe("one", (View(),)).with_label_augmentation(colors=False).views[0].label_augmentation.transforms
        4
        """
        augmentation = LabelAugmentation(rotation, colors)
        chosen = self._chosen("with_label_augmentation", views)
        changed = tuple(
            replace(v, label_augmentation=augmentation) if i in chosen else v for i, v in enumerate(self.views)
        )
        return replace(self, views=changed)

    def with_pairs(
        self, kind: PairKind, *, gap: tuple[int, int] | None = None, p: float = 1.0, views: tuple[int, ...] = (1,)
    ) -> Recipe:
        """Return the recipe with some views (default: the second) showing another image of the clip, class or group.

        Parameters
        ----------
        kind, gap, p
            See `Pair`. Each view draws its own partner; `source` in its plan row says which.
        views : tuple of int

        Examples
        --------
        >>> Recipe("two", (View(), View())).with_pairs("clip", gap=(1, 30)).views[1].pair.gap
        (1, 30)
        """
        pair, chosen = Pair(kind, gap, p), self._chosen("with_pairs", views)
        changed = tuple(replace(v, pair=pair) if i in chosen else v for i, v in enumerate(self.views))
        return replace(self, views=changed)

    def with_object_crops(self, *, views: tuple[int, ...] | None = None) -> Recipe:
        """Return the recipe with the crops of some views (default: the global ones) centred in the object's box.

        See `figureground.pipeline.anchors` for where the box comes from.

        Examples
        --------
        >>> Recipe("one", (View(),)).with_object_crops().views[0].crop.anchor
        'object'
        """
        chosen = self._chosen("with_object_crops", views)
        changed = tuple(
            replace(v, crop=replace(v.crop, anchor="object")) if i in chosen else v for i, v in enumerate(self.views)
        )
        return replace(self, views=changed)

    def with_token_masks(
        self,
        *,
        patch: int = 16,
        ratio: float = 0.75,
        by: TokenPolicy = "random",
        views: tuple[int, ...] | None = None,
    ) -> Recipe:
        """Return the recipe with masks of hidden tokens for some views (default: the global crops); see `TokenMasks`.

        `format="dict"` hands them out as `token_masks`: for each view (B, tokens) bool, row-major, True = hidden.

        Examples
        --------
        >>> Recipe("one", (View(),)).with_token_masks(by="figure", ratio=0.6).uses_masks
        True
        """
        return replace(self, token_masks=TokenMasks(patch, ratio, by, self._chosen("with_token_masks", views)))

    def with_block_corruption(
        self,
        *,
        max_share: float = 0.5,
        max_block: float = 0.3,
        grid: int = 1,
        fill: Literal["noise", "zero"] = "noise",
        partner_p: float = 0.5,
        partner_share: float = 0.3,
        views: tuple[int, ...] | None = None,
    ) -> Recipe:
        """Return the recipe with corrupted copies of some views (default: the global crops); see `BlockCorruption`.

        `format="dict"` hands them out as `corrupted` and `corruption_mask`: for each view (B, 3, S, S) and (B, S, S) bool, True =
        covered. `views` stay clean.

        Examples
        --------
        >>> Recipe("one", (View(),)).with_block_corruption(grid=16).corruption.max_share
        0.5
        """
        chosen = self._chosen("with_block_corruption", views)
        corruption = BlockCorruption(max_share, max_block, grid, fill, partner_p, partner_share, chosen)
        return replace(self, corruption=corruption)

    def with_group_mixing(self, *, group: int = 4, patch: int = 16, views: tuple[int, ...] | None = None) -> Recipe:
        """Return the recipe with mixed copies of some views (default: the global crops); see `GroupMixing`.

        `format="dict"` hands them out as `mixed`, `mixing_source` and `mixing_members`: for each view (B, 3, S, S) and (B, patches)
        int8, which member of its group a patch shows; and (B, group) int64, the members' sample ids. `views` stay unmixed.

        Examples
        --------
        >>> Recipe("one", (View(),)).with_group_mixing(group=2).mixing.patch
        16
        """
        return replace(self, mixing=GroupMixing(group, patch, self._chosen("with_group_mixing", views)))

    def with_style_transfer(
        self,
        *,
        block: int,
        window: float = 0.1,
        ratio: float = 1.0,
        p: float = 1.0,
        views: tuple[int, ...] | None = None,
    ) -> Recipe:
        """Return the recipe with one style a block of samples and view (default: all views); see `StyleTransfer`.

        Examples
        --------
        >>> Recipe("two", (View(), View())).with_style_transfer(block=256).style.views
        (0, 1)
        """
        chosen = self._chosen("with_style_transfer", tuple(range(len(self.views))) if views is None else views)
        return replace(self, style=StyleTransfer(block, window, ratio, p, chosen))

    def _chosen(self, method: str, views: tuple[int, ...] | None) -> tuple[int, ...]:
        """Return the views that a method changes: the given ones, else the global crops."""
        if views is None:
            largest = max(view.crop.size for view in self.views)
            return tuple(i for i, view in enumerate(self.views) if view.crop.size == largest)
        if not isinstance(views, Sequence) or not views:
            raise ValueError(f"{method}: views must be a tuple of at least one view's number, got {views!r}")
        for i in views:
            if not 0 <= i < len(self.views):
                raise ValueError(f"{method}: views must be in 0..{len(self.views) - 1}, got {i}")
        return tuple(views)

    def with_stage(self, function: Callable[[Any, Any], Any], *, after: StagePoint = "composite") -> Recipe:
        """Return the recipe with a kernel of the user's own.

        Parameters
        ----------
        function : callable (views, rows) -> views
            Gets the planar views of some samples, (n, 3, S, S), on the recipe's device (NumPy, or CuPy on a GPU, current
            stream set), and their plan rows, (n,) PLAN_DTYPE on the host. Returns an array of the same shape and dtype,
            which may be the same one. It must treat each row on its own, without random state: `rows["seed"]` is a key
            for each. A batch may come in several parts, from several threads.
        after : {"composite", "color", "normalize"}
            After crop, flip and background (uint8); after colour, blur and solarize (uint8); after normalisation (the
            loader's dtype; bfloat16 as uint16 bit patterns).

        Examples
        --------
        >>> inverted = Recipe("one", (View(),)).with_stage(lambda views, rows: 255 - views, after="color")
        >>> len(inverted.stages)
        1
        """
        return replace(self, stages=(*self.stages, Stage(function, after)))

    def with_size(self, size: int) -> Recipe:
        """Return the recipe with its global views `size` px wide; smaller crops, and `eval`'s resize, change in proportion."""
        if size < 1:
            raise ValueError(f"with_size: size must be at least 1 px, got {size}")
        largest = max(view.crop.size for view in self.views)

        def scaled(crop: Crop) -> Crop:
            side = max(1, round(crop.size * size / largest))
            return replace(crop, size=side, resize=crop.resize and max(side, round(crop.resize * size / largest)))

        return replace(self, views=tuple(replace(v, crop=scaled(v.crop)) for v in self.views))

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that differ between recipes that draw different views."""
        stages = [(stage.after, stage.function.__module__, stage.function.__qualname__) for stage in self.stages]
        drawn = asdict(replace(self, stages=()))
        return hashlib.sha256(repr((drawn, stages)).encode()).hexdigest()[:16]
