"""The cluster's arithmetic, by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from figureground.bench import simulate
from figureground.bench.cache_model import kept_share
from figureground.bench.simulate import (
    Cluster,
    Job,
    lanes_read,
    least_cache_gb,
    measured_ms,
    node_needs,
    predict,
    verdict,
)

CLUSTER = Cluster(16, 8, 1000.0, network_gbit=8, disk_gb_s=2, cores=20)
JOB = Job(1_000_000, image_kb=100, shard_mb=500, cpu_ms=2.0, window=1)
ARGUMENTS = [
    "--gpus", "16", "--gpus-per-node", "8", "--images-per-s-per-gpu", "1000", "--images", "1000000", "--image-kb", "100",
    "--network-gbit", "8", "--disk-gb-s", "2", "--cores", "20", "--window", "1",
]  # fmt: skip


def test_every_node_fetches_every_shard():
    needs = node_needs(CLUSTER, JOB)
    # Data set 100 GB, cache 2 windows x 0.5 GB = 1 %, which saves 0.01 + 0.99 ln 0.99 = 0.00005; 2 nodes x 100 kB an image.
    fetched = 200e3 * (1 - kept_share(0.01))
    assert fetched == pytest.approx(199_990, abs=1)
    assert needs["network"].per_image == pytest.approx(fetched)
    assert needs["network"].limit == pytest.approx(1e9 / fetched)
    assert needs["disk"].limit == pytest.approx(2e9 / (fetched + 100e3))
    assert needs["CPU"].limit == pytest.approx(10_000)
    assert needs["GPU"].limit == pytest.approx(8_000)


def test_the_network_limits():
    result = predict(CLUSTER, JOB)
    fetched = 200e3 * (1 - kept_share(0.01))
    rate = 2 * 1e9 / fetched  # two nodes
    assert result["limit"] == "network"
    assert result["images_per_s"] == pytest.approx(rate, abs=0.1)
    assert result["stall_share"] == pytest.approx(1 - rate / 16_000, abs=1e-4)
    assert result["epoch_s"] == pytest.approx(1e6 / rate, abs=0.1)
    assert result["resources"]["CPU"] == {"images_per_s_a_node": 10_000.0, "needs": 16.0, "has": 20, "unit": "cores"}
    assert result["resources"]["network"]["needs"] == pytest.approx(8 * 8000 * fetched / 1e9, abs=1e-3)
    assert result["shards"] == 200
    assert result["least_cache_gb"] == 1.0
    assert "network is the limit" in verdict(result)


def test_local_disks_and_memory():
    on_disk = Job(1_000_000, 100, 500, 2.0, source="disk")
    result = predict(CLUSTER, on_disk)
    assert result["limit"] == "GPU"
    assert result["stall_share"] == 0
    assert result["resources"]["network"]["images_per_s_a_node"] is None
    half = Cluster(16, 8, 1000.0, 8, 2, 20, memory_gb=50)
    assert node_needs(half, on_disk)["disk"].per_image == pytest.approx(100e3 * (0.5 - 0.5 * math.log(0.5)))


def test_a_loader_on_the_gpu_takes_its_time():
    cluster = Cluster(8, 8, 1000.0, 100, 10, 96, loader_rate=4000.0)
    result = predict(cluster, Job(10**6, 100, 500, 0.05, source="disk"))
    assert result["limit"] == "GPU"
    assert result["images_per_s"] == pytest.approx(8 * 800)  # 1 / (1/1000 + 1/4000)
    assert result["stall_share"] == pytest.approx(0.2)
    assert "20 % of whose time the loader takes" in verdict(result, True)


def test_the_last_node_may_be_half_full():
    # 12 GPUs are a node and a half: for each image of the full node, half a one is trained beside it.
    needs = node_needs(Cluster(12, 8, 1000.0, 8, 2, 20), JOB)
    assert needs["network"].per_image == pytest.approx(150e3 * (1 - kept_share(0.01)))


LANES = replace(JOB, lanes=2)


def test_a_node_fetches_its_lanes():
    # Data set 100 GB of 200 shards: of each two images one is fetched, and one shard of 200 for what a border cuts.
    visited = 0.5 + 1 / 200
    assert lanes_read(CLUSTER, LANES) == 1
    # Windows of one shard and the two that borders cut, two of them: 3 GB.
    assert least_cache_gb(CLUSTER, LANES) == 3.0
    fetched = 2 * 100e3 * visited * (1 - kept_share(0.03, visited))
    needs = node_needs(CLUSTER, LANES)
    assert needs["network"].per_image == pytest.approx(fetched)
    assert needs["disk"].per_image == pytest.approx(fetched + 100e3)
    # With memory for these windows, what was just written is not read from the disk; what the cache still held is.
    kept = kept_share(0.03, visited)
    more = node_needs(replace(CLUSTER, memory_gb=3.0), LANES)["disk"].per_image
    assert more == pytest.approx(fetched + 100e3 * kept * (1 - kept_share(0.03)))
    assert node_needs(replace(CLUSTER, memory_gb=2.9), LANES)["disk"].per_image > fetched + 90e3
    result = predict(CLUSTER, LANES)
    assert (result["lanes"], result["least_cache_gb"]) == (2, 3.0)
    # Eight nodes: without lanes eight fetches an image, with eight lanes one.
    big = Cluster(64, 8, 1000.0, 8, 2, 20)
    one, eight = (node_needs(big, replace(JOB, lanes=lanes))["network"].per_image for lanes in (1, 8))
    assert one / eight == pytest.approx(8 / (1 + 8 / 200), rel=0.02)


def test_lanes_that_do_not_fit_the_nodes():
    # Six nodes share eight lanes: each reads parts of two. Two lanes for four nodes: two nodes fetch each lane.
    assert lanes_read(Cluster(48, 8, 1000.0, 8, 2, 20), replace(JOB, lanes=8)) == 2
    assert lanes_read(Cluster(32, 8, 1000.0, 8, 2, 20), replace(JOB, lanes=2)) == 1
    assert lanes_read(Cluster(32, 8, 1000.0, 8, 2, 20), replace(JOB, lanes=64)) == 16
    assert lanes_read(Cluster(12, 8, 1000.0, 8, 2, 20), replace(JOB, lanes=3)) == 2
    shared = node_needs(Cluster(32, 8, 1000.0, 8, 2, 20), replace(JOB, lanes=2))["network"].per_image
    assert shared == pytest.approx(4 * 100e3 * (0.5 + 1 / 200) * (1 - kept_share(0.03, 0.505)))
    # Windows are no larger than lanes: eight nodes with five lanes each, of five shards and two that borders cut.
    big = Cluster(64, 8, 1000.0, 8, 2, 20)
    assert least_cache_gb(big, replace(JOB, lanes=40, window=8)) == pytest.approx(2 * 5 * (5 + 2) * 0.5)
    assert least_cache_gb(big, replace(JOB, lanes=200, window=8)) == pytest.approx(2 * 25 * (1 + 2) * 0.5)
    assert least_cache_gb(CLUSTER, replace(JOB, lanes=200, window=8)) == 100.0


def test_lanes_are_advised_where_they_would_help():
    assert "network is the limit" in verdict(predict(CLUSTER, JOB))
    assert "of its time, an epoch takes 100 s; --lanes 2 (each node its own), raise --cache-gb" in verdict(
        predict(CLUSTER, JOB)
    )
    slow = Cluster(16, 8, 5000.0, network_gbit=8, disk_gb_s=20, cores=200)
    assert "; raise --cache-gb" in verdict(predict(slow, LANES))
    assert "; raise --cache-gb" in verdict(predict(slow, replace(JOB, lanes=8)))
    assert "; --lanes 2 (each node its own), raise" in verdict(predict(slow, replace(JOB, lanes=3)))
    alone = Cluster(8, 8, 5000.0, network_gbit=8, disk_gb_s=20, cores=200)
    assert "; raise --cache-gb" in verdict(predict(alone, JOB))


def test_few_gpus_fill_no_node():
    result = predict(Cluster(4, 8, 1000.0, 100, 10, 4), Job(10**6, 100, 500, 2.0, source="disk"))
    assert (result["limit"], result["nodes"], result["images_per_s"]) == ("CPU", 1, 2000.0)


def test_costs_come_from_the_throughput_document(tmp_path, capsys):
    document = {
        "device": "cpu",
        "stages": {"decode with masks": {"cpu_ms": 1.25}},
        "epochs": {simulate.RECIPE: {"cpu_ms": 2.0}},
    }
    assert measured_ms(document, simulate.RECIPE) == (1.25, 0.75)
    assert measured_ms({**document, "device": "cuda"}, simulate.RECIPE) == (0.0, 2.0)
    path = tmp_path / "t.json"
    path.write_text(json.dumps(document))
    assert simulate.main([*ARGUMENTS, "--json", str(path), "--out", str(tmp_path / "s.json")]) == 0
    out = capsys.readouterr().out
    assert "CPU 1.25 + 0.75 ms" in out
    assert "The network is the limit" in out
    assert json.loads((tmp_path / "s.json").read_text())["simulate"]["limit"] == "network"
    with pytest.raises(ValueError, match="--recipe must be one of moco_v2 \\+ swap"):
        measured_ms(document, "byol")


def test_messages(capsys):
    assert simulate.main(ARGUMENTS) == 2
    assert "the CPU cost must be given" in capsys.readouterr().err
    assert simulate.main([*ARGUMENTS, "--decode-ms", "1", "--core-speed", "0"]) == 2
    assert "--core-speed must be more than 0" in capsys.readouterr().err
    with pytest.raises(ValueError, match="cores must be more than 0"):
        Cluster(8, 8, 1.0, 1, 1, 0)
    with pytest.raises(ValueError, match="memory_gb must not be negative"):
        Cluster(8, 8, 1.0, 1, 1, 1, memory_gb=-1)
    with pytest.raises(ValueError, match="image_kb must be more than 0"):
        Job(1, 0, 1, 1)
    with pytest.raises(ValueError, match="lanes must be more than 0, got 0"):
        Job(1, 1, 1, 1, lanes=0)
    with pytest.raises(ValueError, match="cache_gb must not be negative"):
        Job(1, 1, 1, 1, cache_gb=-1)
    with pytest.raises(ValueError, match="source must be 'store' or 'disk'"):
        Job(1, 1, 1, 1, source="tape")
