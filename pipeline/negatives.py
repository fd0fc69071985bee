"""What a swap negative is made of: a table with one row per sample, handed out as `batch["negative_params"]`.

The negative is the query (view 0) as it is, but that its figure shows another image. So it is made again from two rows: the
query's, `batch["params"][0]`, for the crop, its ground and all colour work, and the row here for the image inside the figure:

    other = donor's image, cropped to donor_crop, resized to the query's size by its interpolation, mirrored if donor_flip
    negative = colour work of the query ( mask * other + (1 - mask) * query's picture before its colour work )

The mask is the query's, `batch["masks"][0]`. Where the crop does not hold enough of a figure, or there is no mask (see
`holds_figure`), it counts as 1 everywhere: the negative is the other image alone.
"""

from __future__ import annotations

import numpy as np

NEGATIVE_DTYPE = np.dtype(
    [
        ("sample", np.int64),  # sample id of the query
        ("epoch", np.int32),
        ("donor", np.int64),  # sample id of the image inside the figure; always of the sample's block of the order
        ("donor_size", np.int32, 2),  # height, width of the upright donor [px]
        ("donor_crop", np.float32, 4),  # x0, y0, width, height in the donor [px]
        ("donor_flip", np.uint8),  # 1: mirrored left to right, after the crop
    ]
)
"""One row of the parameters of swap negatives; the fields mean what they mean in `PLAN_DTYPE`."""


def negative_params(plan: np.ndarray) -> np.ndarray:
    """Return what counts of the plan of swap negatives: its other draws are not used.

    Parameters
    ----------
    plan : (B,) PLAN_DTYPE

    Returns
    -------
    (B,) NEGATIVE_DTYPE

    Examples
    --------
    >>> from figureground.pipeline.plan import PLAN_DTYPE
    >>> plan = np.zeros(2, PLAN_DTYPE)
    >>> plan["donor"] = 7, 3
    >>> negative_params(plan)["donor"].tolist()
    [7, 3]
    """
    rows = np.empty(len(plan), NEGATIVE_DTYPE)
    for name in NEGATIVE_DTYPE.names or ():
        rows[name] = plan[name]
    return rows


def holds_figure(masks: np.ndarray, min_area: float) -> np.ndarray:
    """Tell which queries' crops hold enough of a figure for another one in its place.

    Parameters
    ----------
    masks : (B, S, S) float32
        As handed out; zeros where there is no mask.
    min_area : float
        The recipe's `Background.min_area` of view 0, in [0, 1].

    Returns
    -------
    (B,) bool
        False: the negative is the other image alone.

    Examples
    --------
    >>> holds_figure(np.stack([np.zeros((2, 2)), np.eye(2)]).astype(np.float32), 0.02).tolist()
    [False, True]
    """
    levels = np.rint(masks.astype(np.float64) * 255).reshape(len(masks), -1)
    return levels.sum(axis=1) >= max(255 * levels.shape[1] * min_area, 1)


def describe_negative(row: np.void, *, alone: bool) -> str:
    """Say in words what a swap negative shows, e.g. "the query, its figure replaced by crop 90x80+3+5 of 120x100 of sample 7".

    With `alone` the query's crop holds no figure.
    """
    x, y, w, h = (float(v) for v in row["donor_crop"])
    height, width = row["donor_size"]
    flip = ", flip" if row["donor_flip"] else ""
    other = f"crop {w:.0f}x{h:.0f}+{x:.0f}+{y:.0f} of {width}x{height} of sample {row['donor']}{flip}"
    return f"no figure in the query's crop, so {other} alone" if alone else f"the query, its figure replaced by {other}"
