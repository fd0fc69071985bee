"""The data has the shortcut that it is said to have, and wrong masks are wrong."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from figureground.bench.experiment_data import (
    TEST_SETS,
    Parts,
    compose_tests,
    compose_train,
    count_own,
    derange,
    draw_grounds,
    place_of,
    write_masks,
    write_set,
)  # fmt: skip
from figureground.bench.experiment_parts import package_parts, read_figure, read_parts
from figureground.shards import MaskStore, Store

CLASSES = 4


@pytest.fixture(scope="module")
def parts():
    """White bars on plain scenes: the value says the class, the last channel whether it is kept for the tests."""
    figure = np.full((20, 40, 4), 255, np.uint8)
    scenes = [
        [np.full((80, 90, 3), (40 * c, 40 * c, 9 * (i % 3 == 1)), np.uint8) for i in range(6)] for c in range(CLASSES)
    ]
    return Parts("plain", [[figure, figure] for _ in range(CLASSES)], scenes)


def seen_scenes(composed):
    """Class of the scene and share of the tests' scenes, read from the pixels outside the figures."""
    corner = np.stack([image[mask == 0].mean(0) for image, mask in zip(composed.images, composed.masks, strict=True)])
    return np.rint(corner[:, 0] / 40).astype(int), corner[:, 2] > 4


def test_the_bias_is_in_the_pixels(parts):
    train = compose_train(parts, 4000, size=24, bias=0.9, seed=0)
    scene, of_tests = seen_scenes(train)
    np.testing.assert_array_equal(scene, train.grounds)
    assert not of_tests.any()
    np.testing.assert_array_equal(np.bincount(train.labels), [1000] * CLASSES)
    own = count_own(train.grounds, train.labels)
    assert abs(own - 0.9) < 4 * np.sqrt(0.9 * 0.1 / 4000)
    for label in range(CLASSES):  # the others are as likely as each other
        counts = np.bincount(train.grounds[train.labels == label], minlength=CLASSES)
        rest = np.delete(counts, label)
        assert abs(rest - rest.mean()).max() < 4 * np.sqrt(rest.mean())


def test_the_test_sets(parts):
    sets = compose_tests(parts, 2000, size=24, bias=0.9, seed=0)
    assert tuple(sets) == TEST_SETS
    shares = {}
    for name, composed in sets.items():
        scene, of_tests = seen_scenes(composed)
        np.testing.assert_array_equal(scene, composed.grounds)
        assert of_tests.all()
        shares[name] = count_own(composed.grounds, composed.labels)
    assert shares["swapped"] == 0
    assert shares["mixed_same"] == shares["only_scene"] == 1
    assert abs(shares["in_distribution"] - 0.9) < 0.03
    assert abs(shares["mixed_rand"] - 1 / CLASSES) < 0.04
    for name in TEST_SETS[1:4]:  # the same figures in the same pose
        np.testing.assert_array_equal(sets[name].masks, sets["in_distribution"].masks)
        np.testing.assert_array_equal(sets[name].labels, sets["in_distribution"].labels)
    assert not sets["only_scene"].masks.any()


def test_data_is_a_function_of_the_seed(parts):
    one, same, other = (compose_train(parts, 20, size=24, bias=0.9, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.images, same.images)
    assert (one.images != other.images).any()


def test_a_mask_is_the_figure(parts):
    train = compose_train(parts, 50, size=48, bias=0.9, seed=0)
    share = train.masks.reshape(50, -1).mean(1) / 255
    assert share.min() > 0.1
    assert share.max() <= 0.5
    # The figure is the only thing that is bright in the third channel.
    bright = train.images[..., 2] > 128
    agree = (bright == (train.masks > 150)).mean((1, 2))
    assert agree.min() > 0.97


@pytest.mark.parametrize("count", [2, 3, 10, 1000])
def test_derange_leaves_nothing_in_place(count):
    for seed in range(20):
        order = derange(count, np.random.default_rng(seed))
        np.testing.assert_array_equal(np.sort(order), np.arange(count))
        assert (order != np.arange(count)).all()
    with pytest.raises(ValueError, match="count must be at least 2, got 1"):
        derange(1, np.random.default_rng(0))


def test_grounds_at_the_ends():
    labels = np.arange(300) % 3
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(draw_grounds(labels, 3, 1.0, rng), labels)
    assert (draw_grounds(labels, 3, 0.0, rng) != labels).all()


def test_shards_and_masks_belong_together(parts, tmp_path):
    train = compose_train(parts, 40, size=24, bias=0.9, seed=0)
    shards = write_set(train, tmp_path / "set")
    masks = write_masks(shards, train.masks, tmp_path / "masks", method="true")
    with Store(shards) as store, MaskStore(store, masks) as sidecars:
        places = [place_of(store.key(i)) for i in range(len(store))]
        assert sorted(places) == list(range(40))
        for i, place in enumerate(places):
            assert store.target(i) == train.labels[place]
            np.testing.assert_array_equal(cv2.imdecode(sidecars.mask(i), cv2.IMREAD_GRAYSCALE), train.masks[place])
            image = cv2.imdecode(store.image(i), cv2.IMREAD_COLOR_RGB)
            assert np.abs(image.astype(int) - train.images[place]).mean() < 8  # JPEG


def test_parts_of_the_packages():
    parts = package_parts(classes=3, per_class=2, seed=0)
    assert [len(group) for group in parts.figures] == [2, 2, 2]
    for group in parts.figures:
        for figure in group:
            assert figure.shape[2] == 4
            assert 0.2 < (figure[..., 3] >= 128).mean() < 1
    assert (package_parts(classes=3, per_class=2, seed=1).figures[0][0].shape != parts.figures[0][0].shape) or (
        package_parts(classes=3, per_class=2, seed=1).figures[0][0] != parts.figures[0][0]
    ).any()
    with pytest.raises(ValueError, match=r"classes must be 2\.\.6 without images, got 7"):
        package_parts(classes=7)


def write_photo(path, colour, *, alpha):
    """A disc of a colour on grey, with its mask as alpha or not at all; returns the mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:60, :80]
    mask = np.where((y - 30) ** 2 + (x - 40) ** 2 < 400, 255, 0).astype(np.uint8)
    picture = np.where(mask[..., None] > 0, np.array(colour[::-1], np.uint8), np.uint8(90))
    cv2.imwrite(str(path), np.dstack([picture, mask]) if alpha else picture)
    return mask


def test_parts_of_folders(tmp_path):
    for name, colour in (("cat", (250, 10, 20)), ("dog", (10, 240, 30))):
        for i in range(3):
            mask = write_photo(tmp_path / "images" / name / f"{i}.png", colour, alpha=False)
            (tmp_path / "masks" / name).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / "masks" / name / f"{i}.png"), mask)
    parts = read_parts([tmp_path / "images"], tmp_path / "masks", None, per_class=2)
    assert [len(group) for group in parts.figures] == [2, 2]
    figure = parts.figures[0][0]
    assert figure.shape == (39, 39, 4)  # the disc's box
    np.testing.assert_array_equal(figure[19, 19], (250, 10, 20, 255))
    assert (np.abs(parts.scenes[1][0].astype(int) - 90) < 12).all()  # the figure is painted over
    # Loose files with alpha: dealt out to groups, which needs scenes.
    for i in range(6):
        write_photo(tmp_path / "loose" / f"{i}.png", (i, 0, 0), alpha=True)
    with pytest.raises(ValueError, match="scenes must be given"):
        read_parts([tmp_path / "loose"], None, None, classes=2)
    parts = read_parts([tmp_path / "loose"], None, tmp_path / "images", classes=2, per_class=3)
    assert sorted(int(f[19, 19, 0]) for group in parts.figures for f in group) == list(range(6))
    assert [len(shelf) for shelf in parts.scenes] == [3, 3]
    assert parts.source == "loose on images"


def test_errors_of_folders(tmp_path):
    with pytest.raises(ValueError, match="images must be a folder"):
        read_parts([tmp_path / "none"], None, None)
    write_photo(tmp_path / "a" / "0.png", (1, 2, 3), alpha=False)
    write_photo(tmp_path / "b" / "0.png", (1, 2, 3), alpha=False)
    (tmp_path / "scenes").mkdir()
    with pytest.raises(ValueError, match="figures of two classes at least, got 0"):
        read_parts([tmp_path], None, None)
    write_photo(tmp_path / "loose" / "0.png", (1, 2, 3), alpha=True)
    write_photo(tmp_path / "loose" / "1.png", (1, 2, 3), alpha=True)
    with pytest.raises(ValueError, match="scenes must hold 2 sub-folders of images, got 0"):
        read_parts([tmp_path / "loose"], None, tmp_path / "scenes", classes=2)
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((5, 5), np.uint8))
    with pytest.raises(ValueError, match=r"must be a mask of \(60, 80\) px, got \(5, 5\)"):
        read_figure(tmp_path / "a" / "0.png", tmp_path / "small.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="must be an image that can be read"):
        read_figure(tmp_path / "broken.png", None)
    assert read_figure(tmp_path / "a" / "0.png", None) is None
