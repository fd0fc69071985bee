"""Index: written for DALI, read into arrays, and never believed when stale."""

from __future__ import annotations

import os
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from figureground.shards.errors import ShardError
from figureground.shards.index import (
    index_is_fresh,
    index_path,
    index_text,
    load_index,
    read_index,
    scan_index,
    split_name,
    write_index,
)
from figureground.shards.index_text import escape_name, parse_index, unescape_name
from figureground.shards.tar import Member

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def names_of(index):
    return [index.name(row) for row in range(len(index.offset))]


def test_text_by_hand(make_tar):
    tar = make_tar("x.tar", [("a.jpg", b"12345"), ("a.cls", b"7"), ("d/b.JPG", b""), ("README", b"no sample")])
    summary = write_index(tar)
    assert Path(index_path(tar)).read_text() == "v1.2 2\njpg 512 5 a.jpg cls 1536 1 a.cls\nJPG 2560 0 d/b.JPG\n"
    assert (summary.samples, summary.components, summary.skipped) == (2, 3, 1)
    index = read_index(tar)
    assert len(index) == 2
    assert [index.key(0), index.key(1)] == [b"a", b"d/b"]
    assert index.first.tolist() == [0, 2, 3]
    assert index.offset.tolist() == [512, 1536, 2560]
    assert index.size.tolist() == [5, 1, 0]
    assert names_of(index) == [b"a.jpg", b"a.cls", b"d/b.JPG"]


def test_same_file_as_dali_makes(make_tar, tmp_path: Path):
    wds2idx = pytest.importorskip("wds2idx")
    files = [(f"train.v1/{i:04d}.{ext}", b"x" * i) for i in range(9) for ext in ("jpg", "cls", "mask.png")]
    tar = make_tar("x.tar", files)
    with wds2idx.IndexCreator(tar, str(tmp_path / "theirs.idx"), verbose=False) as creator:
        creator.create_index()
    write_index(tar)
    assert Path(index_path(tar)).read_bytes() == (tmp_path / "theirs.idx").read_bytes()


def test_dali_reads_it(make_tar):
    fn = pytest.importorskip("nvidia.dali.fn")
    from nvidia.dali import pipeline_def

    files = [("a.jpg", b"A"), ("größe.jpg", b"BB"), ("a.cls", b"1"), ("two words.jpg", b"DDD"), ("größe.cls", b"2"),
             ("l" * 200 + ".jpg", b"EEEE"), ("two words.cls", b"3"), ("l" * 200 + ".cls", b"4")]  # fmt: skip
    tar = make_tar("x.tar", files, tarfile.PAX_FORMAT)
    write_index(tar)

    @pipeline_def(batch_size=4, num_threads=1, device_id=None)
    def pipeline():
        return tuple(fn.readers.webdataset(paths=[tar], index_paths=[index_path(tar)], ext=["jpg", "cls"]))

    reader = pipeline()
    reader.build()
    images, classes = reader.run()
    assert [bytes(np.array(images[i])) for i in range(4)] == [b"A", b"BB", b"DDD", b"EEEE"]
    assert [bytes(np.array(classes[i])) for i in range(4)] == [b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_formats(make_tar, format):
    files = [(f"{'deep/' * 15}{i}.jpg", b"x" * i) for i in range(3)]
    tar = make_tar("x.tar", files, format)
    index = load_index(tar)
    assert names_of(index) == [name.encode() for name, _ in files]
    data = Path(tar).read_bytes()
    assert [data[a : a + n] for a, n in zip(index.offset, index.size, strict=True)] == [data for _, data in files]


def test_webdataset_rule():
    assert split_name(b"a/b.c/d.e.f") == (b"a/b.c/d", b"e.f")
    for name in (b"nodot", b"d.x/nodot", b".hidden", b"d/.hidden.jpg", b"dot.", b"__meta__/x.jpg", b""):
        assert split_name(name) is None
    assert split_name(b"__meta__x.jpg") == (b"__meta__x", b"jpg")


def test_interleaved_and_repeated_keys():
    names = [b"a.jpg", b"b.jpg", b"a.cls", b"b.cls", b"a.JPG", b"a.cls", b"b.txt"]
    index = parse_index(index_text([Member(name, 512 * i, 1) for i, name in enumerate(names)]), "x.tar")
    assert [index.key(i) for i in range(len(index))] == [b"a", b"b", b"a"]
    assert index.first.tolist() == [0, 2, 5, 7]
    assert names_of(index) == [b"a.jpg", b"a.cls", b"b.jpg", b"b.cls", b"b.txt", b"a.JPG", b"a.cls"]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.binary(min_size=1, max_size=30), st.integers(0, 10**15)), max_size=8))
def test_any_name_comes_back(files):
    members = [Member(name, offset * 512, offset % 977) for name, offset in files]
    index = parse_index(index_text(members), "x.tar")
    wanted = [member for member in members if split_name(member.name)]
    got = [Member(index.name(row), int(index.offset[row]), int(index.size[row])) for row in range(len(index.offset))]
    assert sorted(got) == sorted(wanted)


@given(st.one_of(st.binary(), st.text(alphabet="%25aA0 \n").map(str.encode)))
def test_escapes_come_back(name):
    assert unescape_name(escape_name(name)) == name
    assert not re.search(rb"\s", escape_name(name))


def test_empty_archive(make_tar):
    tar = make_tar("x.tar", [])
    assert len(load_index(tar)) == 0
    assert index_is_fresh(tar)


def test_fresh_after_a_copy_that_leaves_the_index_older(make_tar):
    tar = make_tar("x.tar", [(f"{i}.jpg", b"x" * i) for i in range(100)])
    assert not index_is_fresh(tar)
    write_index(tar)
    assert index_is_fresh(tar)
    os.utime(index_path(tar), (1, 1))
    assert index_is_fresh(tar)


def test_stale_more_members(make_tar):
    tar = make_tar("x.tar", [("a.jpg", b"1")])
    write_index(tar)
    with tarfile.open(tar, "a") as archive:
        archive.addfile(tarfile.TarInfo("b.jpg"))
    assert not index_is_fresh(tar)
    message = r"x.idx: stale: the tar has more members after byte 1024; run 'figureground index .*x.tar'"
    for mode in ("auto", "require"):
        with pytest.raises(ShardError, match=message):
            load_index(tar, mode)


def test_stale_shorter_tar(make_tar):
    tar = make_tar("x.tar", [(f"{i}.jpg", b"1" * 9000) for i in range(9)])
    write_index(tar)
    make_tar("x.tar", [("a.jpg", b"1")])
    with pytest.raises(ShardError, match=r"stale: its last member ends at byte \d+, the tar has 10240 bytes; run"):
        read_index(tar)


def test_stale_same_layout_but_other_names(make_tar):
    tar = make_tar("x.tar", [("a.jpg", b"1"), ("b.jpg", b"2")])
    write_index(tar)
    make_tar("x.tar", [("a.jpg", b"1"), ("c.jpg", b"2")])
    os.utime(index_path(tar), (1, 1))
    with pytest.raises(ShardError, match="older than the tar and its offsets do not match the tar's headers; run"):
        read_index(tar)


def test_cut_tar_with_index(make_tar):
    tar = make_tar("x.tar", [("a.jpg", b"1" * 512)])
    write_index(tar)
    os.truncate(tar, 1024)
    with pytest.raises(ShardError, match="no end-of-archive marker"):
        read_index(tar)


def test_missing(make_tar, tmp_path: Path):
    tar = make_tar("x.tar", [("a.jpg", b"1")])
    with pytest.raises(ShardError, match=r"x.tar: has no index; run 'figureground index .*x.tar'"):
        load_index(tar, "require")
    with pytest.raises(ShardError, match="does not exist"):
        index_is_fresh(tmp_path / "gone.tar")
    with pytest.raises(ShardError, match="must be a tar file, got an index"):
        write_index(index_path(tar))


def test_kept_in_memory_where_nothing_can_be_written(make_tar, monkeypatch, caplog):
    tar = make_tar("x.tar", [("a.jpg", b"1")])

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("figureground.shards.index.write_index", refuse)
    assert load_index(tar).digest == scan_index(tar).digest
    assert "x.tar: index kept in memory, it cannot be written: Permission denied" in caplog.text
    assert not os.path.exists(index_path(tar))


def test_nothing_is_left_when_writing_fails(make_tar, monkeypatch, tmp_path: Path):
    tar = make_tar("x.tar", [("a.jpg", b"1")])

    def fail(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_index(tar)
    assert os.listdir(tmp_path) == ["x.tar"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", r"must start with 'v1.2 <samples>', got b''"),
        (b"v1.1 1\njpg 512 9\n", "must start with 'v1.2 <samples>'"),
        (b"v1.2 2\njpg 512 9 a.jpg\n", "promises 2 samples, has 1"),
        (b"v1.2 1\njpg 512 9 a.jpg", "the last line is cut short"),
        (b"v1.2 1\njpg 512 a.jpg\n", "line 2 must be 'ext offset size filename' groups, got b'jpg 512 a.jpg'"),
        (b"v1.2 1\njpg 512 nine a.jpg\n", "line 2 must be"),
        (b"v1.2 1\njpg 512 9 a.jpg cls\n512 1 a.cls b.cls\n", "line 2 must be"),
        (b"v1.2 1\njpg 512  9 a.jpg\n", "line 2 must be"),
        (b"v1.2 1\njpg 512 9 a.png.x\n", "a file name does not end in its extension"),
        (b"v1.2 1\njpg 1234567890123456789 9 a.jpg\n", "groups parted by single blanks"),
    ],
)
def test_messages_of_damaged_text(text, message):
    with pytest.raises(ShardError, match=r"s/x.idx: .*; run 'figureground index --force s/x.tar'") as error:
        parse_index(text, "s/x.tar")
    assert re.search(message, str(error.value))


def test_shared_tars(shared_data: Path, tmp_path: Path):
    samples = {}
    for source in sorted((shared_data / "webdataset_tars").iterdir()):
        tar = tmp_path / source.name
        tar.write_bytes(source.read_bytes())
        if source.suffix == ".tgz":
            with pytest.raises(ShardError, match="compressed with gzip"):
                scan_index(str(tar))
            continue
        index = load_index(str(tar))
        samples[source.name] = len(index)
        with tarfile.open(tar) as archive:
            assert names_of(index) == [info.name.encode() for info in archive if info.isreg()]
    assert samples == {"compressed.tar": 3, "mpdata.tar": 100, "tendata.tar": 100}
