"""The command line from a folder of images to views."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest
from PIL import Image
from pipeline_shards import disc_image

from figureground.pipeline import cli


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    rng = np.random.default_rng(0)
    for i in range(20):
        target = folder / "images" / f"class{i % 2}"
        target.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target / f"{i:02d}.jpg"), disc_image(rng, 60, 80)[0])
    assert cli.main(["pack", str(folder / "images"), str(folder / "shards"), "--quiet"]) == 0
    return str(folder / "shards" / "*.tar")


def test_index_check_masks_run(packed, capsys):
    assert cli.main(["index", packed]) == 0
    assert cli.main(["check", packed]) == 0
    assert cli.main(["masks", packed, "--device", "cpu"]) == 0
    capsys.readouterr()
    assert (
        cli.main(
            [
                "run",
                packed,
                "--device",
                "cpu",
                "--batch-size",
                "8",
                "--size",
                "32",
                "--background",
                "swap",
                "--epochs",
                "2",
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "epoch 1: 16 images" in out
    assert "bottleneck: the " in out


def test_show_views_of_pairs(packed, tmp_path, capsys):
    words = [
        "show",
        "views",
        packed,
        "--device",
        "cpu",
        "--size",
        "32",
        "--rows",
        "4",
        "--out",
        str(tmp_path / "a.png"),
    ]
    assert cli.main([*words, "--pairs", "clip", "--gap", "1", "3", "--object-crops"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("sample ")]
    assert all("image of sample" not in line for line in lines[::2])
    assert all("view 1: image of sample" in line for line in lines[1::2])
    assert cli.main([*words, "--pairs", "class", "--gap", "1", "3"]) == 2
    assert "gap must be None for kind 'class'" in capsys.readouterr().err


def test_show_views_draws_and_describes(packed, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    arguments = [
        "show",
        "views",
        packed,
        "--device",
        "cpu",
        "--background",
        "swap",
        "--p",
        "1",
        "--index",
        "3",
        "7",
        "--out",
        str(sheet),
    ]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert out.count(": crop ") == 4
    assert len(re.findall(r", negative: (the query, its|no figure in the) ", out)) == 2
    assert "background swap from sample" in out
    first = np.asarray(Image.open(sheet))
    assert first.shape[1] > 700
    assert cli.main(arguments) == 0
    np.testing.assert_array_equal(np.asarray(Image.open(sheet)), first)


def test_show_views_of_a_recipe_of_ones_own(packed, tmp_path, capsys):
    source = tmp_path / "mine.py"
    source.write_text(
        "from figureground.pipeline import recipes\n"
        "assert __name__ != '__main__'\n"
        "def shuffled(): return recipes.moco_v2(32).with_patch_shuffle(4, p=1.0).with_negatives('patch', side=(3, 9))\n"
        "turned = recipes.mae(32).with_label_augmentation()\n"
        "number = 3\n"
    )
    words = ["show", "views", packed, "--device", "cpu", "--index", "3", "7", "--out", str(tmp_path / "a.png")]
    assert cli.main([*words, "--recipe", f"{source}:shuffled"]) == 0
    assert capsys.readouterr().out.count("patches shuffled") == 4
    assert cli.main([*words, "--recipe", f"{source}:turned"]) == 0
    assert "channels" in capsys.readouterr().out
    for name, message in (
        (f"{source}:number", "number of .* must be a Recipe, or a function that returns one, got int"),
        (f"{source}:nothing", "got NoneType"),
        ("moco_v4", r"must be one of .*, got 'moco_v4'; did you mean moco_v\d\?"),
        ("gone.py:r", "or FILE.py:NAME, got 'gone.py:r'"),
    ):
        assert cli.main([*words, "--recipe", name]) == 2
        assert re.search(message, capsys.readouterr().err)


def test_views_of_shards_behind_urls_are_those_of_local_ones(packed, tmp_path, capsys):
    url = "file://" + packed
    common = ["--device", "cpu", "--index", "3", "7"]
    assert cli.main(["show", "views", packed, *common, "--out", str(tmp_path / "a.png")]) == 0
    local = capsys.readouterr().out.splitlines()
    assert cli.main(["show", "views", url, *common]) == 1
    assert "pass --cache DIR" in capsys.readouterr().err
    arguments = [*common, "--cache", str(tmp_path / "cache"), "--window", "2", "--out", str(tmp_path / "b.png")]
    assert cli.main(["show", "views", url, *arguments]) == 0
    assert capsys.readouterr().out.splitlines()[:4] == local[:4]
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "a.png")), np.asarray(Image.open(tmp_path / "b.png"))
    )
    run = ["run", url, "--device", "cpu", "--batch-size", "8", "--size", "32", "--cache", str(tmp_path / "cache")]
    assert cli.main(run) == 0
    assert "epoch 0: 16 images" in capsys.readouterr().out


def test_lanes(packed, tmp_path, capsys):
    show = [
        "show",
        "views",
        packed,
        "--device",
        "cpu",
        "--size",
        "32",
        "--index",
        "3",
        "7",
        "--background",
        "swap",
        "--p",
        "1",
    ]
    show += ["--out", str(tmp_path / "a.png"), "--lanes"]
    donors = {}
    for lanes in ("1", "2"):
        assert cli.main([*show, lanes]) == 0
        donors[lanes] = re.findall(r"donor \d+|sample \d+", capsys.readouterr().out)
    assert donors["1"] != donors["2"], "a sheet shows the donors of the run that has these lanes"
    run = ["run", packed, "--device", "cpu", "--size", "32", "--batch-size", "8", "--lanes"]
    assert cli.main([*run, "2"]) == 0
    assert "epoch 0: 16 images" in capsys.readouterr().out
    assert cli.main([*run, "3"]) == 2
    assert "must be a multiple of lanes = 3" in capsys.readouterr().err
    assert cli.main([*show, "0"]) == 2
    assert "--lanes must be at least 1, got 0" in capsys.readouterr().err


def test_check_finds_what_is_wrong(tmp_path, capsys):
    from pipeline_shards import write_tar

    write_tar(tmp_path / "bad.tar", [("a.jpg", b"not an image"), ("b.cls", b"1")])
    assert cli.main(["index", str(tmp_path / "bad.tar")]) == 0
    capsys.readouterr()
    assert cli.main(["check", str(tmp_path / "bad.tar")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any("a" in line and "not an image" in line for line in lines)
    assert any("b" in line and "no image" in line for line in lines)


def test_exit_codes_and_sentences(packed, tmp_path, capsys):
    assert cli.main(["run", str(tmp_path / "none-*.tar"), "--device", "cpu"]) == 1
    assert "none-*.tar" in capsys.readouterr().err
    assert cli.main(["run", packed, "--device", "cpu", "--batch-size", "500"]) == 2
    assert cli.main(["run", packed, "--device", "cpu", "--epochs", "0"]) == 2
    assert "drop_last=True needs at least" in capsys.readouterr().err
    with pytest.raises(SystemExit) as usage:
        cli.main(["fly"])
    assert usage.value.code == 2


def test_help_names_every_verb(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    out = capsys.readouterr().out
    assert all(verb in out for verb in ("pack", "index", "check", "masks", "show", "run"))


def test_views_of_what_is_not_there(packed, tmp_path, capsys):
    show = ["show", "views", packed, "--device", "cpu", "--size", "32"]
    assert cli.main([*show, "--index", "3", "999"]) == 2
    assert "--index must be in 0..19, got 3..999" in capsys.readouterr().err
    assert cli.main([*show, "--rows", "0"]) == 2
    assert "--rows must be at least 1, got 0" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert cli.main([*show, "--rows", "1", "--out", str(tmp_path / "file" / "a.png")]) == 2
    assert "file is no folder; choose another place" in capsys.readouterr().err


def test_views_of_images_that_opencv_does_not_read(tmp_path, capsys):
    from io import BytesIO

    from pipeline_shards import write_tar

    picture = Image.fromarray(disc_image(np.random.default_rng(5), 40, 50)[0])
    stream = BytesIO()
    picture.save(stream, "PNG")
    members = [("0.png", stream.getvalue()), ("1.jpg", b""), ("2.jpg", b"no image"), ("3.jpg", b"<html>")]
    write_tar(tmp_path / "odd.tar", members)
    arguments = [
        "show",
        "views",
        str(tmp_path / "odd.tar"),
        "--device",
        "cpu",
        "--size",
        "32",
        "--out",
        str(tmp_path / "a.png"),
    ]
    assert cli.main([*arguments, "--index", "0", "1", "2", "3"]) == 0
    out = capsys.readouterr().out
    assert "sample 0 (0), view 0" in out
    assert "sample 3 cannot be decoded: sample 0 (0) takes its place" in out


def test_keys_that_the_terminal_cannot_show(tmp_path):
    """Under LC_ALL=C an encoding without a letter is no reason to stop; progress does not get into the results."""
    import os
    import subprocess
    import sys

    from pipeline_shards import write_tar

    rng = np.random.default_rng(0)
    jpegs = [cv2.imencode(".jpg", disc_image(rng, 40, 50)[0])[1].tobytes() for _ in range(8)]
    write_tar(
        tmp_path / "a.tar", [(f"\u00fc\u65e5{i}.jpg", jpeg) for i, jpeg in enumerate(jpegs)] + [("\u00fc9.jpg", b"bad")]
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "figureground.pipeline"]

    def run(*arguments):
        return subprocess.run(
            [*command, *arguments], capture_output=True, text=True, env=environment, timeout=200, check=False
        )

    done = run("check", str(tmp_path / "a.tar"))
    assert done.returncode == 1
    assert "\\xfc9: not an image" in done.stdout
    done = run("run", str(tmp_path / "a.tar"), "--device", "cpu", "--batch-size", "8", "--size", "32")
    assert done.returncode == 0, done.stderr
    assert [line.split(" ")[0] for line in done.stdout.splitlines()] == ["epoch", "producer", "bottleneck:"]
