"""The page: what it says in numbers, that it is whole, and in headless Chromium that it works."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pipeline_shards import disc_image, write_tar

from figureground.pipeline.masks_report import _thumbnail, mask_confidence, mask_disagreement, spread, write_page
from figureground.pipeline.saliency_net import SaliencyNet, save_net
from figureground.shards import ShardError
from figureground.shards.masks import MaskWriter

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def document(page: Path) -> dict:
    """The data inside a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8"), re.S)
    return json.loads(found[1])


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """24 discs of growing size and softness; one has no mask, one an empty, one a full one, one is no image."""
    folder = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(3)
    members, masks = [], {}
    y, x = np.mgrid[:112, :112]
    for i in range(24):
        image, _ = disc_image(rng, 70 + i, 110 - i)
        key = f"c{i % 2}/{i:03d}" if i != 11 else "c1/<b>&amp;011"
        members.append((f"{key}.jpg", cv2.imencode(".jpg", image)[1].tobytes() if i != 20 else b"no image"))
        distance = np.hypot(y - 55.5, x - 55.5) - (8 + 1.6 * i)
        masks[key] = np.clip(128 - distance * 255 / (1 + 2 * i), 0, 255).astype(np.uint8)
    keys = list(masks)
    masks[keys[4]], masks[keys[5]] = np.zeros((112, 112), np.uint8), np.full((112, 112), 255, np.uint8)
    write_tar(folder / "s-0.tar", members)
    for name, change in (("masks", lambda m: m), ("others", lambda m: np.roll(m, 9, axis=1))):
        (folder / name).mkdir()
        with MaskWriter(folder / "s-0.tar", method="discs", masks_dir=folder / name) as writer:
            for key in keys[:9] + keys[10:]:
                writer.add(key, change(masks[key]))
    return folder


@pytest.fixture(scope="module")
def page(shards):
    path = shards / "page.html"
    write_page(
        shards / "s-0.tar", path, masks_dir=shards / "masks", compare=str(shards / "others"), title="Discs & <masks>"
    )
    return path


def test_confidence_by_hand():
    assert mask_confidence(np.zeros((2, 2), np.uint8)) == 0
    assert mask_confidence(np.array([[0, 255, 255]], np.uint8)) == 1
    assert mask_confidence(np.array([[51, 204]], np.uint8)) == 0.36
    assert mask_confidence(np.array([[77, 0, 0, 0]], np.uint8)) < 0.3, "a faint figure is no confident one"


def test_disagreement_by_hand():
    half = np.array([[255, 255, 0, 0]], np.uint8)
    assert mask_disagreement(half, half) == 0
    assert mask_disagreement(half, half[:, ::-1]) == 1
    assert mask_disagreement(half, np.full((2, 8), 255, np.uint8)) == 0.5
    assert mask_disagreement(half * 0, half * 0) == 0


def test_spread_covers_all():
    assert spread(7, 7) == list(range(7))
    chosen = spread(1000, 64)
    assert len(set(chosen)) == 64
    assert set(np.diff(chosen)) == {15, 16}


def test_data(page):
    data = document(page)
    items = {item["key"]: item for item in data["items"]}
    assert len(items) == 24
    assert (data["method"], data["compare"]) == ("discs", "others")
    none = [item for item in data["items"] if item["area"] is None]
    assert [item["key"] for item in none] == ["c1/009"]
    assert items["c0/004"]["area"] == 0
    assert items["c1/005"]["area"] == 1
    assert items["c0/020"]["photo"] == ""
    assert items["c0/020"]["note"] == "the image cannot be decoded"
    assert items["c0/000"]["confidence"] > items["c1/023"]["confidence"]
    assert 0 < items["c0/006"]["disagreement"] < 1
    assert (items["c0/000"]["width"], items["c0/000"]["height"]) == (110, 70)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_thumbnails_of_16_bits(kind):
    """They are as dark as what the pipeline sees."""
    stream = io.BytesIO()
    Image.fromarray(np.full((20, 30), 16384, np.uint16)).save(stream, kind)
    photo, width, height, note = _thumbnail(np.frombuffer(stream.getvalue(), np.uint8))
    assert (width, height, note) == (30, 20, "")
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(photo))))
    assert abs(pixels.astype(int) - 64).max() <= 1


def test_nothing_is_loaded_from_elsewhere(page):
    text = page.read_text("utf-8")
    assert "</script><b>" not in text
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:)""", text)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert "@import" not in text


def test_compare_with_a_method(shards, tmp_path):
    summary = write_page(
        shards / "s-0.tar", tmp_path / "page.html", masks_dir=shards / "masks", compare="fused", limit=6
    )
    data = document(tmp_path / "page.html")
    assert (summary.images, summary.samples, len(data["items"])) == (6, 24, 6)
    assert data["compare"] == "fused"
    assert all(item["disagreement"] is not None for item in data["items"] if item["area"] is not None and item["photo"])


def test_compare_with_a_network(shards, tmp_path):
    save_net(tmp_path / "net.pt", SaliencyNet(4), side=32, card={})
    compare = f"net:{tmp_path / 'net.pt'}"
    write_page(shards / "s-0.tar", tmp_path / "page.html", masks_dir=shards / "masks", compare=compare, limit=3)
    assert document(tmp_path / "page.html")["compare"] == "net:net.pt", "its folder is nobody's business"


def test_messages(shards, tmp_path):
    with pytest.raises(ShardError, match="no shard has a sidecar there"):
        write_page(shards / "s-0.tar", tmp_path / "page.html", masks_dir=tmp_path)
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        write_page(shards / "s-0.tar", tmp_path / "page.html", masks_dir=shards / "masks", limit=0)
    with pytest.raises(
        ValueError, match=r"compare is no folder of sidecars: method must be one of fused, .*, got 'magic'"
    ):
        write_page(shards / "s-0.tar", tmp_path / "page.html", masks_dir=shards / "masks", compare="magic")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ShardError, match=r"empty/s-0.masks.tar: no shard has a sidecar in the folder to compare with"):
        write_page(
            shards / "s-0.tar", tmp_path / "page.html", masks_dir=shards / "masks", compare=str(tmp_path / "empty")
        )


PROBE = """
<script>
const log = [], pause = ms => new Promise(done => setTimeout(done, ms));
const settle = () => pause(500);
window.onerror = message => log.push({ error: message });
function look(step) {
  const shown = [...document.querySelectorAll("main .card")];
  const paths = name => Object.fromEntries(shown.map(card => [card.dataset.key, card.querySelector(name).getAttribute("d") || ""]));
  log.push({ step, keys: shown.map(card => card.dataset.key), edges: paths(".edge"), rivals: paths(".rival"), hash: location.hash,
    drawn: shown.filter(card => card.querySelector("img")?.src).length, show: document.body.dataset.show });
}
function use(id, value, event = "input") {
  const node = document.getElementById(id);
  node.value = value;
  node.dispatchEvent(new Event(event, { bubbles: true }));
}
const press = query => document.querySelector(query).click();
(async () => {
  await pause(300); look("start");
  use("threshold", "0.9"); await settle(); look("slider");
  use("threshold", "0.1"); await settle(); look("slider back");
  use("sort", "area"); await settle(); look("area");
  press("#order"); await settle(); look("area down");
  use("sort", "confidence"); await settle(); look("confidence down");
  use("sort", "disagreement"); await settle(); look("disagreement down");
  for (const kind of ["empty", "full", "none", "all"]) { press(`#filter [value=${kind}]`); await settle(); look(kind); }
  use("find", "<B>"); await settle(); look("find"); use("find", "");
  press("#show [value=cut]"); await settle(); look("cut");
  press(".bars button:nth-child(3)"); await settle(); look("bar");
  press(".bars button:nth-child(3)"); await settle();
  press("main .card"); await settle();
  log.push({ step: "dialog", open: document.querySelector("dialog").open, title: document.querySelector("dialog h2").textContent,
    panels: document.querySelectorAll("dialog .panels figure").length });
  document.body.append(Object.assign(document.createElement("pre"), { id: "log", textContent: JSON.stringify(log) }));
})();
</script>
"""


def chromium(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Chromium without a window, with a profile of its own."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium on the PATH, e.g. of 'apt-get install chromium'")
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def browse(page: Path, folder: Path, *, fragment: str = "", size: str = "1200,900", probe: str = PROBE) -> dict:
    """Open a page in Chromium, play with it, and return what was seen, by step."""
    probed = folder / "probed.html"
    probed.write_text(page.read_text("utf-8").replace("</body>", probe + "</body>"), "utf-8")
    done = chromium(
        folder, f"--window-size={size}", "--virtual-time-budget=20000", "--dump-dom", probed.as_uri() + fragment
    )
    found = re.search(r'<pre id="log">(.*?)</pre>', done.stdout, re.S)
    assert found, f"the page did not answer: {done.stderr[-500:]}"
    log = json.loads(unescape(found[1]))
    assert not [entry for entry in log if "error" in entry], log
    return {entry["step"]: entry for entry in log}


@pytest.fixture(scope="module")
def seen(page, tmp_path_factory):
    for _ in range(5):  # the browser's virtual clock does not wait for masks to be inflated: a busy machine may be late
        found = browse(page, tmp_path_factory.mktemp("chromium"))
        if all(found[step]["edges"]["c1/015"] for step in ("start", "slider", "slider back")):
            break
    return found


def box(path: str) -> tuple[float, float]:
    """Width and height of an outline, in pixels of the embedded mask."""
    points = np.array([[float(v) for v in point.split()] for point in re.findall(r"[\d.]+ [\d.]+", path)])
    return tuple(points.max(axis=0) - points.min(axis=0))


def test_slider_moves_the_outline(seen):
    key = "c1/015"
    wide, middle, narrow = (box(seen[step]["edges"][key]) for step in ("slider back", "start", "slider"))
    # A ramp of 31 px from 255 to 0 around a radius of 32 px; the embedded mask is half as large.
    for size, level in ((wide, 0.1), (middle, 0.5), (narrow, 0.9)):
        assert size == pytest.approx(((32 + 31 * (0.502 - level)) * np.ones(2)), abs=0.25)
    assert seen["slider"]["hash"] == "#threshold=0.9"
    assert seen["start"]["rivals"][key] != seen["start"]["edges"][key]


def test_outlines_of_whole_and_empty_masks(seen):
    assert seen["start"]["edges"]["c0/004"] == "", "an empty mask has no outline"
    assert box(seen["start"]["edges"]["c1/005"]) == (56, 56), "a full one goes round the image"
    assert seen["start"]["edges"]["c1/009"] == "", "no mask"
    assert seen["start"]["edges"]["c0/002"].count("M") == seen["start"]["edges"]["c0/002"].count("Z") == 1


def test_sorting(seen, page):
    items = {item["key"]: item for item in document(page)["items"]}
    assert seen["start"]["keys"] == list(items), "in the shard's order"
    steps = [("area", "area", 1)] + [(f"{name} down", name, -1) for name in ("area", "confidence", "disagreement")]
    for step, name, sign in steps:
        values = [items[key][name] for key in seen[step]["keys"]]
        assert values[-1] is None, "images without a mask come last"
        assert values[:-1] == sorted(values[:-1], key=lambda value: sign * value), step


def test_filters(seen, page):
    items = document(page)["items"]
    assert seen["empty"]["keys"] == [item["key"] for item in items if item["area"] is not None and item["area"] < 0.02]
    assert seen["full"]["keys"] == ["c1/005"]
    assert seen["none"]["keys"] == ["c1/009"]
    assert len(seen["all"]["keys"]) == 24
    assert seen["find"]["keys"] == ["c1/<b>&amp;011"], "keys are text, never markup"
    in_bar = {item["key"] for item in items if item["area"] is not None and 0.1 <= item["area"] < 0.15}
    assert set(seen["bar"]["keys"]) == in_bar != set()


def test_ways_to_draw_and_the_dialog(seen):
    assert seen["cut"]["show"] == "cut"
    assert seen["dialog"]["open"]
    assert seen["dialog"]["panels"] == 3


def test_state_from_the_address(page, tmp_path):
    probe = """
<script>
setTimeout(() => {
  const keys = [...document.querySelectorAll("main .card")].map(card => card.dataset.key);
  const log = [{ step: "x", keys, slider: document.getElementById("threshold").value }];
  document.body.append(Object.assign(document.createElement("pre"), { id: "log", textContent: JSON.stringify(log) }));
}, 300);
</script>
"""
    seen = browse(page, tmp_path, fragment="#threshold=0.7&filter=full", probe=probe)["x"]
    assert (seen["keys"], seen["slider"]) == (["c1/005"], "0.7")


def test_what_is_seen(page, tmp_path):
    """Screenshots: outlines of both methods in their colors, on thumbnails in rows; the slider draws the rings in."""

    def pixels(fragment: str, color: tuple[int, int, int]) -> np.ndarray:
        image = tmp_path / "page.png"
        options = (
            "--window-size=1000,2000",
            "--hide-scrollbars",
            "--virtual-time-budget=3000",
            f"--screenshot={image}",
        )
        for _ in range(5):  # as for `seen`: a busy machine may be late
            done = chromium(tmp_path, *options, page.as_uri() + fragment)
            assert image.exists(), done.stderr[-500:]
            rows = cv2.imread(str(image)).astype(int)
            image.unlink()
            found = np.abs(rows[..., ::-1] - color).max(2) < 40
            if found[300:].any():
                break
        return found

    figure, other = (255, 46, 116), (0, 194, 255)
    half = pixels("", figure)[300:]
    assert half.sum() > 2000
    assert len(np.flatnonzero(np.diff(half.any(1).astype(int)) == 1)) >= 3, "rows of thumbnails"
    assert pixels("", other)[300:].sum() > 1000
    assert pixels("#threshold=0.95", figure)[300:].sum() < 0.9 * half.sum(), "the masks are discs: higher is smaller"
    assert pixels("#show=image", figure)[300:].sum() < 0.05 * half.sum()
    assert pixels("#filter=none", figure)[300:].sum() < 0.05 * half.sum()


def test_only_what_is_in_view_is_drawn(page, tmp_path):
    """2,000 thumbnails: those out of sight wait."""
    data = document(page)
    data["items"] = [{**data["items"][i % 3], "key": f"{i:04d}"} for i in range(2000)]
    text = page.read_text("utf-8")
    first, last = text.index('id="data">') + len('id="data">'), text.index("</script>")
    text = text[:first] + json.dumps(data) + text[last:]
    (tmp_path / "many.html").write_text(text, "utf-8")
    probe = PROBE[: PROBE.index('use("threshold", "0.9")')] + PROBE[PROBE.index("document.body.append") :]
    seen = browse(tmp_path / "many.html", tmp_path, probe=probe)["start"]
    assert len(seen["keys"]) == 2000
    assert 20 < seen["drawn"] < 200
    assert sum(bool(path) for path in seen["edges"].values()) == seen["drawn"]
