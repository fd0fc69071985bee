"""What a plan row says in words."""

from __future__ import annotations

import numpy as np

from figureground.pipeline.plan import BACKGROUND_MODES, PLAN_DTYPE
from figureground.pipeline.preview import describe


def _row(**fields):
    row = np.zeros(1, PLAN_DTYPE)[0]
    row["size"], row["crop"], row["style"], row["partner"], row["figure_share"] = (
        (375, 500),
        (92, 53, 232, 281),
        -1,
        -1,
        -1,
    )
    for name, value in fields.items():
        row[name] = value
    return row


def test_a_plain_row():
    assert describe(_row(blur_sigma=1.0, solarize_threshold=128)) == "crop 232x281+92+53 of 500x375"


def test_every_step_is_named_in_its_order():
    row = _row(
        sample=3, source=4, flip=1, background=BACKGROUND_MODES.index("swap"), donor=9, jitter=1, jitter_order=(3, 0, 1, 2),
        jitter_factors=(1.2, 0.8, 1, -0.05), grayscale=1, blur=1, blur_sigma=1.388, rotation=3, channel_order=1, style=7,
        patch_shuffle=1, solarize=1, solarize_threshold=128, texture=2, partner=5, figure_share=0.5, crop_try=2,
    )  # fmt: skip
    assert describe(row).split(", ") == [
        "image of sample 4",
        "crop 232x281+92+53 of 500x375",
        "which is crop 2 of those drawn",
        "with 50 % of the figure",
        "flip",
        "background swap from sample 9",
        "jitter hue -0.05 brightness 1.20 contrast 0.80 saturation 1.00",
        "grayscale",
        "blur 1.39 px",
        "turned 270 degrees to the left",
        "channels RBG",
        "style of sample 7",
        "patches shuffled",
        "solarize from 128",
        "its texture by random phase",
        "its corrupted copy with blocks of sample 5",
    ]
