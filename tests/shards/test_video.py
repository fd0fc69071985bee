"""Frames of videos, and folders of frames, in shards."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import pytest

from figureground.shards import cli
from figureground.shards.errors import ShardError
from figureground.shards.folder import list_images
from figureground.shards.reader import Store
from figureground.shards.video import FrameOptions, read_frames
from figureground.shards.writer import pack


def write_video(path: Path, frames: int, *, shape=(48, 64), first: int = 0) -> Path:
    """A video whose frame number i is grey of value 4 (first + i)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, shape[::-1])
    assert video.isOpened()
    for i in range(frames):
        video.write(np.full((*shape, 3), 4 * (first + i), np.uint8))
    video.release()
    return path


def packed(source, out, **options):
    report = pack(source, out, progress=False, **options)
    return report, Store(out)


def decoded(store, sample):
    return cv2.imdecode(store.image(sample), cv2.IMREAD_COLOR)


def test_every_frame_in_time(tmp_path):
    write_video(tmp_path / "src" / "clip.avi", 7)
    report, store = packed(tmp_path / "src", tmp_path / "out")
    assert [store.key(i) for i in range(len(store))] == [f"clip/{i:06d}" for i in range(7)]
    assert (report.samples, report.classes, report.skipped) == (7, [], [])
    for i in range(7):
        assert decoded(store, i).shape == (48, 64, 3)
        assert abs(decoded(store, i).mean() - 4 * i) < 2


@pytest.mark.parametrize("every", [2, 3, 7, 50])
def test_every_kth_frame(tmp_path, every):
    write_video(tmp_path / "src" / "clip.avi", 8)
    _, store = packed(tmp_path / "src", tmp_path / "out", every=every)
    numbers = list(range(0, 8, every))
    assert [store.key(i) for i in range(len(store))] == [f"clip/{n:06d}" for n in numbers]
    assert [round(decoded(store, i).mean() / 4) for i in range(len(store))] == numbers


def test_size_quality_and_format(tmp_path):
    write_video(tmp_path / "src" / "wide.avi", 2)
    write_video(tmp_path / "src" / "tall.avi", 2, shape=(64, 32))
    _, store = packed(tmp_path / "src", tmp_path / "out", frame_size=24, image_ext="png")
    shapes = [decoded(store, i).shape[:2] for i in range(4)]
    assert shapes == [(48, 24), (48, 24), (24, 32), (24, 32)]
    assert all(bytes(store.image(i)[:4]) == b"\x89PNG" for i in range(4))
    _, same = packed(tmp_path / "src", tmp_path / "larger", frame_size=500)
    assert decoded(same, 0).shape[:2] == (64, 32)
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    video = cv2.VideoWriter(str(tmp_path / "src" / "wide.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
    video.write(noise)
    video.release()
    lengths = [packed(tmp_path / "src", tmp_path / f"{q}", frame_quality=q)[0].image_bytes for q in (30, 95)]
    assert lengths[0] < 0.7 * lengths[1]


def test_videos_and_images_in_class_folders(tmp_path, jpeg):
    source = tmp_path / "src"
    write_video(source / "run" / "one.take.avi", 3)
    write_video(source / "swim" / "two.AVI", 2)
    for name in ("run/a.jpg", "swim/z.jpg", "root.jpg"):
        (source / name).write_bytes(jpeg)
    report, store = packed(source, tmp_path / "out", shuffle_seed=None)
    keys = [store.key(i) for i in range(len(store))]
    assert keys == [
        "root", "run/a", "run/one_take/000000", "run/one_take/000001", "run/one_take/000002", "swim/two/000000",
        "swim/two/000001", "swim/z",
    ]  # fmt: skip
    assert report.classes == ["run", "swim"]
    assert store.targets.tolist() == [-1, 0, 0, 0, 0, 1, 1, 1]


def test_frames_stay_together_when_shuffled(tmp_path):
    for k in range(6):
        write_video(tmp_path / "src" / f"{k}.avi", 4)
    _, store = packed(tmp_path / "src", tmp_path / "out", shuffle_seed=1)
    keys = [store.key(i) for i in range(24)]
    clips = [key.split("/")[0] for key in keys[::4]]
    assert sorted(clips) == list("012345") != clips
    assert keys == [f"{clip}/{n:06d}" for clip in clips for n in range(4)]


def test_clips_take_no_key_that_is_in_use(tmp_path, jpeg):
    source = tmp_path / "src"
    write_video(source / "a.avi", 1)
    write_video(source / "b.avi", 1)
    write_video(source / "b.mkv.avi", 1)
    for name in ("a/000000.jpg", "b.jpg"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(jpeg)
    _, store = packed(source, tmp_path / "out")
    assert [store.key(i) for i in range(5)] == ["a_2/000000", "a/000000", "b_2/000000", "b", "b_mkv/000000"]


def test_same_bytes_for_any_jobs(tmp_path, jpeg):
    write_video(tmp_path / "src" / "x" / "a.avi", 30)
    (tmp_path / "src" / "x" / "b.jpg").write_bytes(jpeg)
    made = []
    for jobs in (1, 4):
        packed(tmp_path / "src", tmp_path / f"out{jobs}", jobs=jobs, shard_size_mb=0.01)
        made.append([path.read_bytes() for path in sorted((tmp_path / f"out{jobs}").glob("*.tar"))])
    assert made[0] == made[1]
    assert len(made[0]) > 2


def test_broken_videos_are_left_out_and_the_others_go_on(tmp_path, jpeg):
    source = tmp_path / "src"
    whole = write_video(source / "whole.avi", 40)
    data = whole.read_bytes()
    (source / "cut.avi").write_bytes(data[: len(data) // 2])
    (source / "empty.mp4").write_bytes(b"")
    (source / "text.mp4").write_bytes(b"I am no video" * 100)
    (source / "gone.avi").symlink_to(tmp_path / "nowhere")
    report, store = packed(source, tmp_path / "out")
    reasons = dict(report.skipped)
    assert reasons["empty.mp4"] == "the file is empty (0 bytes)"
    assert reasons["text.mp4"] == "is no video that OpenCV reads"
    assert reasons["gone.avi"] == "cannot be read: no such file"
    keys = [store.key(i) for i in range(len(store))]
    cut = [key for key in keys if key.startswith("cut/")]
    assert 5 < len(cut) < 35
    assert reasons["cut.avi"] == f"the frames from {len(cut)} on, of 40, cannot be decoded"
    assert len([key for key in keys if key.startswith("whole/")]) == 40
    assert sorted(reasons) == ["cut.avi", "empty.mp4", "gone.avi", "text.mp4"]


def test_nothing_but_broken_videos(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.mp4").write_bytes(b"no video")
    with pytest.raises(ShardError, match=r"none of its images can be read; the first: a\.mp4: is no video that OpenCV"):
        packed(tmp_path / "src", tmp_path / "out")


def test_limit_stops_inside_a_video(tmp_path):
    write_video(tmp_path / "src" / "a.avi", 30)
    report, store = packed(tmp_path / "src", tmp_path / "out", limit=11)
    assert report.samples == len(store) == 11


def test_frames_are_read_one_at_a_time(tmp_path):
    frames = read_frames(str(write_video(tmp_path / "a.avi", 5)), FrameOptions(every=2))
    number, frame = next(frames)
    assert (number, frame.shape, frame.dtype) == (0, (48, 64, 3), np.uint8)
    assert [number for number, _ in frames] == [2, 4]


def test_folders_of_frames_have_clip_keys(tmp_path, jpeg):
    for name in ("b/00001.jpg", "b/00000.jpg", "a/x/00007.jpg"):
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg)
    _, store = packed(tmp_path / "src", tmp_path / "out")
    assert [store.key(i) for i in range(3)] == ["a/x/00007", "b/00000", "b/00001"]
    assert store.targets.tolist() == [0, 1, 1]


def test_masks_beside_frames_are_no_samples(tmp_path, jpeg):
    (tmp_path / "a").mkdir()
    for name in ("a/0.jpg", "a/0.mask.png", "a/1.mask.png"):
        (tmp_path / name).write_bytes(jpeg)
    found = list_images(str(tmp_path))
    assert [source.key for source in found.sources] == ["a/0", "a/1_mask"]  # nothing tells that the last one is a mask
    assert found.skipped == [("a/0.mask.png", "the mask of a/0, to be imported with 'figureground masks'")]


def test_davis(shared_data, tmp_path):
    report, store = packed(shared_data / "davis_3seq", tmp_path / "out")
    keys = [store.key(i) for i in range(len(store))]
    assert report.classes == ["camel", "drift-straight", "libby"]
    assert {key.split("/")[0] for key in keys} == set(report.classes)
    assert keys == sorted(keys)
    assert all(key.split("/")[1].isdecimal() for key in keys)


def test_command(tmp_path, capsys):
    write_video(tmp_path / "src" / "a.avi", 9)
    parser = argparse.ArgumentParser()
    cli.add_pack(parser)
    words = [str(tmp_path / "src"), str(tmp_path / "out"), "--quiet", "--every", "4", "--frame-size", "20"]
    assert cli.run_pack(parser.parse_args([*words, "--frame-quality", "50"])) == 0
    assert capsys.readouterr().out.startswith("3 samples of 0 classes in 1 shards,")
    for option, message in (
        (["--every", "0"], "pack: every must be at least 1 frame, got 0"),
        (["--frame-size", "0"], "pack: frame_size must be at least 1 px, got 0"),
        (["--frame-quality", "0"], "pack: frame_quality must be in 1..100, got 0"),
    ):
        assert cli.run_pack(parser.parse_args([*words, *option])) == 2
        assert capsys.readouterr().err == f"{message}\n"
