"""Frames of video files, through OpenCV: a clip becomes samples `clip/000000`, `clip/000005`, ... of consecutive frames.

The key's folder names the clip, its last part is the frame's number in the video. So keys sort in time, and whatever groups
samples by the folder of their keys groups them by clip.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import cv2
import numpy as np

from .folder import Source

Prepared = tuple[bytes, str] | str
"""An image file and its extension, or in words why there is none."""


@dataclass(frozen=True)
class FrameOptions:
    """Which frames of a video are packed, and how."""

    every: int = 1
    """Take every so many-th frame: 0, every, 2 every, ..."""
    size: int | None = None
    """The shorter side of larger frames is reduced to this [px]; None keeps the frames' size."""
    quality: int = 95
    """Of the JPEG files, 1..100."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"pack: every must be at least 1 frame, got {self.every}")
        if self.size is not None and self.size < 1:
            raise ValueError(f"pack: frame_size must be at least 1 px, got {self.size}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"pack: frame_quality must be in 1..100, got {self.quality}")


def read_frames(path: str, options: FrameOptions) -> Iterator[tuple[int, np.ndarray]]:
    """Decode frames of a video in their order, one at a time.

    Parameters
    ----------
    path : str
        A file of any format that OpenCV's FFmpeg reads.
    options : FrameOptions

    Yields
    ------
    int
        The frame's number in the video, from 0 on.
    (H, W, 3) uint8
        The frame, BGR, upright.

    Raises
    ------
    ValueError
        If the file is no video, holds no frame, or ends before the frames that its header promises; the frames before the
        end have been given then.

    Notes
    -----
    Headers count frames not always exactly: an end that is early by two frames or one percent is taken for the end.
    """
    if not os.path.isfile(path) or os.path.getsize(path) == 0:
        raise ValueError("the file is empty (0 bytes)" if os.path.isfile(path) else "cannot be read: no such file")
    backend = cv2.CAP_FFMPEG if cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG) else cv2.CAP_ANY
    try:
        video = cv2.VideoCapture(os.path.abspath(path), backend)
    except (cv2.error, UnicodeError) as error:
        raise ValueError(f"cannot be opened: {' '.join(str(error).split())}") from error
    try:
        if not video.isOpened():
            raise ValueError("is no video that OpenCV reads")
        promised, number = int(max(video.get(cv2.CAP_PROP_FRAME_COUNT), 0)), 0
        while video.grab():
            if number % options.every == 0:
                there, frame = video.retrieve()
                if not there or frame is None:
                    break
                yield number, _reduced(frame, options.size)
            number += 1
    finally:
        video.release()
    if number == 0:
        raise ValueError("no frame of it can be decoded")
    if number < promised - max(2, promised // 100):
        raise ValueError(f"the frames from {number} on, of {promised}, cannot be decoded")


def _reduced(frame: np.ndarray, size: int | None) -> np.ndarray:
    height, width = frame.shape[:2]
    if size is None or min(height, width) <= size:
        return frame
    scale = size / min(height, width)
    shape = (max(size, round(width * scale)), max(size, round(height * scale)))
    return cv2.resize(frame, shape, interpolation=cv2.INTER_AREA)


def encode_frame(frame: np.ndarray, ext: Literal["jpg", "png"], quality: int) -> Prepared:
    """Encode a frame (H, W, 3) uint8 BGR as a JPEG file (4:2:0, as videos are) or a PNG file."""
    done, data = cv2.imencode(f".{ext}", frame, [cv2.IMWRITE_JPEG_QUALITY, quality] if ext == "jpg" else [])
    return (data.tobytes(), ext) if done else f"a frame cannot be encoded as {ext}"


def frame_jobs(
    source: Source, image_ext: str, options: FrameOptions
) -> Iterator[tuple[Source, Callable[[], Prepared]]]:
    """Yield each frame of a video as a source of its own and the work that makes its file.

    What is wrong with the video comes last, as the work of the video itself.
    """
    ext: Literal["jpg", "png"] = "png" if image_ext == "png" else "jpg"
    try:
        for number, frame in read_frames(source.path, options):
            yield (
                replace(source, key=f"{source.key}/{number:06d}"),
                partial(encode_frame, frame, ext, options.quality),
            )
    except (ValueError, cv2.error) as error:
        yield source, partial(str, " ".join(str(error).split()))
