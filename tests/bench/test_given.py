"""What users give: cut to size, or refused in a sentence."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pipeline_shards import write_shards, write_tar

from figureground.bench import given as given_module
from figureground.bench import kernels, peers, python_cost, scaling, soak, throughput, timeline
from figureground.bench.__main__ import main as bench_main
from figureground.bench.given import CUT_SHARDS, Unfit, check_files, take_shards
from figureground.shards import MaskStore, Store

FEW = {throughput: ["--rounds", "1"], scaling: ["--rounds", "1"], timeline: [], peers: ["--rounds", "1"]}


def test_more_than_enough_is_cut_evenly(tmp_path, capsys):
    given = take_shards(write_shards(tmp_path / "s", 60), tmp_path, most=20, batch_size=2)
    assert (given.samples, given.masked, given.of) == (20, 20, 60)
    assert given.first_read["files"] == 20
    assert "20 of the 60 samples are used" in capsys.readouterr().out
    chosen = np.linspace(0, 59, 20).astype(int).tolist()
    with Store(given.shards) as cut, MaskStore(cut) as masks:
        assert len(cut.shards) == CUT_SHARDS
        assert cut.targets.tolist() == [i % 5 for i in chosen]
        with Store(str(tmp_path / "s" / "part-*.tar")) as store, MaskStore(store) as whole:
            for place, sample in enumerate(chosen):
                assert bytes(cut.image(place)) == bytes(store.image(sample))
                assert bytes(masks.mask(place)) == bytes(whole.mask(sample))


def test_what_is_little_enough_is_taken_as_it_is(tmp_path):
    shards = write_shards(tmp_path / "s", 20, masks=False)
    given = take_shards(shards, tmp_path, most=5, batch_size=4)  # eight batches are 32
    assert (given.shards, given.samples, given.masked, given.first_read) == (shards, 20, 0, None)
    cut = take_shards(shards, tmp_path, most=8, batch_size=1)
    with Store(cut.shards) as store, MaskStore(store) as masks:
        assert (len(store), cut.masked, masks.present.any()) == (8, 0, False)


@pytest.mark.parametrize("verb", FEW, ids=lambda verb: verb.__name__.rpartition(".")[2])
def test_fewer_samples_than_a_batch(tmp_path, capsys, verb):
    shards = write_shards(tmp_path / "s", 5)
    assert verb.main(["--shards", shards, "--batch-size", "8", *FEW[verb]]) == 2
    name = verb.__name__.rpartition(".")[2]
    said = capsys.readouterr().err
    assert said == f"{name}: --batch-size (BATCH) must be at most the 5 samples of the shards, got 8\n"


@pytest.mark.parametrize("verb", [*FEW, python_cost], ids=lambda verb: verb.__name__.rpartition(".")[2])
def test_no_shards(tmp_path, capsys, verb):
    assert verb.main(["--shards", str(tmp_path / "none" / "*.tar")]) == 2
    assert "no shard matches" in capsys.readouterr().err


@pytest.mark.parametrize(
    "verb", [throughput, scaling, timeline, kernels], ids=lambda verb: verb.__name__.rpartition(".")[2]
)
def test_no_gpu(capsys, verb):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("says what is missing without a GPU")
    assert verb.main(["--device", "cuda"]) == 2
    assert "needs a CUDA GPU" in capsys.readouterr().err


def broken_shards(folder, bad, count=24):
    """Shards of which some samples are empty, text or cut short."""
    shards = write_shards(folder / "whole", count)
    members = []
    with Store(shards) as store:
        for i in range(count):
            image = bytes(store.image(i))
            if i < bad:
                image = (b"", b"<html>not found</html>", image[:100])[i % 3]
            members.append((f"{i:05d}.jpg", image))
    write_tar(folder / "broken.tar", members)
    return str(folder / "broken.tar")


def test_broken_files_are_left_out_of_the_stages(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(throughput, "copy_bandwidth", lambda *_: 10.0)
    path = tmp_path / "r.json"
    arguments = [
        "--shards",
        broken_shards(tmp_path, 1),
        "--batch-size",
        "8",
        "--rounds",
        "1",
        "--no-presets",
        "--steps",
    ]
    assert throughput.main([*arguments, "--json", str(path)]) == 0
    said = capsys.readouterr().out
    assert "1 of 24 images cannot be decoded" in said
    assert "24 of 24 samples have no mask: theirs are estimated on the way" in said
    epochs = json.loads(path.read_text())["epochs"]
    assert {throughput.OVER} <= epochs["moco_v2 + swap p=1"].keys()
    # Masks are estimated where there is none: the backgrounds' price is not hidden.
    assert epochs["moco_v2 + swap p=1"][throughput.OVER] > 10


def test_too_many_broken_files_end_in_a_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(throughput, "copy_bandwidth", lambda *_: 10.0)
    shards = broken_shards(tmp_path, 9)
    assert throughput.main(["--shards", shards, "--batch-size", "8", "--rounds", "1", "--no-presets", "--steps"]) == 2
    assert "could not be decoded, more than error_budget" in capsys.readouterr().err


def test_peers_want_intact_files(tmp_path, capsys):
    shards = broken_shards(tmp_path, 2)
    with pytest.raises(Unfit, match=r"2 of 24 are not \(first: 00000 in .*broken.tar\)"):
        check_files(shards)
    assert peers.main(["--shards", shards, "--batch-size", "8", "--rounds", "1"]) == 2
    assert "peers: all images must be intact JPEG or PNG files" in capsys.readouterr().err
    check_files(write_shards(tmp_path / "good", 4))


def test_without_masks_no_peer_swaps(tmp_path):
    made, skipped = peers.make_peers(write_shards(tmp_path / "s", 8, masks=False), 1, 4, masks=False)
    assert next(iter(made)) == peers.OURS_PLAIN
    assert "have no masks" in skipped[peers.OURS]
    assert not any("swap p" in name for name in made)


def test_soak_wants_something_to_do(capsys):
    assert soak.main([]) == 2
    assert "one of --batches, --cycles and --signals must be at least 1" in capsys.readouterr().err


VERBS = {
    "demo": ["--out"],
    "experiment": ["--out", "--json"],
    "gpu": ["--out"],
    "report": ["--out"],
    "timeline": ["--out", "--json"],
    "bggap": ["--json", "--plot"],
    "probes": ["--json", "--plot"],
    "saliency": ["--json", "--picture"],
    "invariance": ["--json"],
    "kernels": ["--json"],
    "masks": ["--json"],
    "parity": ["--json"],
    "peers": ["--json"],
    "python_cost": ["--json"],
    "scaling": ["--json"],
    "soak": ["--json"],
    "startup": ["--json"],
    "techniques": ["--json"],
    "throughput": ["--json"],
}


@pytest.mark.parametrize(("verb", "option"), [(verb, option) for verb, options in VERBS.items() for option in options])
def test_a_place_that_cannot_be_written_is_said_before_anything_is_measured(tmp_path, capsys, verb, option):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended:
        bench_main([verb, option, str(tmp_path / "file" / "x.png")])
    assert ended.value.code == 2
    assert f"error: argument {option}: {tmp_path}/file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--shards", "nowhere"], "train: nowhere: no shard matches"),
        (["train", "--shards", "SHARDS", "--batch-size", "0"], "train: Loader: batch_size must be at least 1, got 0"),
        (["train", "--shards", "SHARDS", "--batch-size", "999"], "train: Loader: drop_last=True needs at least"),
        (["train", "--shards", "SHARDS", "--size", "0"], "train: Crop: size must be at least 1 px, got 0"),
        (["train", "--shards", "SHARDS", "--batch-size", "8", "--steps", "4"], "--steps must be more than the 4 that fill the"),
        (["kernels", "--views", "0"], "kernels: --views must be at least 1, got 0"),
        (["kernels", "--repeats", "0"], "kernels: --repeats must be at least 1, got 0"),
        (["python_cost", "--batch-size", "0"], "python_cost: --batch-size must be at least 1, got 0"),
        (["python_cost", "--batches", "0"], "python_cost: --batches must be at least 1, got 0"),
        (["techniques", "--size", "0"], "techniques: --size must be at least 1, got 0"),
        (["techniques", "--count", "0"], "techniques: --count must be at least 1, got 0"),
        (["techniques", "--rounds", "0"], "techniques: --rounds must be at least 1, got 0"),
        (["throughput", "--threads", "0"], "throughput: --threads must be at least 1, got 0"),
        (["throughput", "--seconds", "nan"], "throughput: --seconds must be more than 0, got nan"),
        (["throughput", "--steps", "10", "-1"], "throughput: --steps must be more than 0, got -1"),
    ],
    ids=str,
)
def test_numbers_and_paths_that_are_of_no_use(tmp_path, capsys, words, message):
    shards = write_shards(tmp_path, 16)
    assert bench_main([shards if word == "SHARDS" else word for word in words]) == 2
    assert message in capsys.readouterr().err


def test_an_error_of_the_system_is_a_sentence(tmp_path, capsys):
    (tmp_path / "file").touch()

    @given_module.in_one_sentence
    def main():
        (tmp_path / "file" / "x").mkdir()

    @given_module.in_one_sentence
    def other():
        raise OSError("of something else")

    assert main() == 2
    assert f"{tmp_path}/file/x cannot be read or written: Not a directory" in capsys.readouterr().err
    with pytest.raises(OSError, match="of something else"):
        other()


@pytest.mark.parametrize("verb", ["bggap", "probes"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["--k", "0"], "--k must be at least 1, got 0"),
        (["--classes", "nowhere.json"], "--classes must be a JSON file, got nowhere.json"),
        (["--classes", "text.json"], "--classes must be a JSON file, got text.json"),
        (["--classes", "table.json"], "--classes must be a JSON list of whole numbers, one for each output, got {'a': 1}"),
        (["--classes", "flags.json"], "--classes must be a JSON list of whole numbers, one for each output, got [True]"),
    ],
)
def test_what_evaluations_are_given(tmp_path, monkeypatch, capsys, verb, words, message):
    monkeypatch.chdir(tmp_path)
    for name, text in (("text", "hello"), ("table", '{"a": 1}'), ("flags", "[true]")):
        (tmp_path / f"{name}.json").write_text(text)
    shards = ["--sets", "sets"] if verb == "bggap" else ["sets"]
    assert bench_main([verb, *shards, "--model", "model.py:model", *words]) == 2
    assert f"{verb}: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "message"), [(["--rows", "0"], "--rows must"), (["--device", "tpu"], "got 'tpu'")])
def test_the_demo_looks_at_its_numbers_first(tmp_path, capsys, words, message):
    assert bench_main(["demo", "--out", str(tmp_path / "demo"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()
