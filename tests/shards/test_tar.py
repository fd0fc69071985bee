"""Header walker against Python's tarfile."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from figureground.shards.errors import ShardError
from figureground.shards.tar import Member, checksum_matches, header_size, open_tar, read_members

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def archive(files, format=tarfile.GNU_FORMAT, **options):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format, **options) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def header(name=b"a.jpg", size=b"00000000001\0", kind=b"0", magic=b"ustar\x0000", prefix=b""):
    """Build a header by hand."""
    block = bytearray(512)
    block[0 : len(name)] = name
    block[124:136] = size
    block[156:157] = kind
    block[257:265] = magic
    block[345 : 345 + len(prefix)] = prefix
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def oracle(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [
            Member(info.name.encode("utf-8", "surrogateescape"), info.offset_data, info.size)
            for info in tar.getmembers()
            if info.isreg()
        ]


def test_by_hand():
    data = header(b"dir/a.jpg", b"00000000003\0") + b"abc".ljust(512, b"\0") + header(b"b", b"00000000000\0")
    assert read_members(data + bytes(1024), "x.tar") == ([Member(b"dir/a.jpg", 512, 3), Member(b"b", 1536, 0)], 1536)


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_as_tarfile(format):
    names = ["a.jpg", "folder/with blanks.jpg", "d/" * 30 + "deep.png", "empty.cls", "x" * 100 + ".t"]
    if format != tarfile.USTAR_FORMAT:
        names += ["größe/日本語.jpg", "l" * 300 + ".jpg", "ü" * 90 + ".cls"]
    else:
        names = [*names[:4], "p" * 60 + "/" + "n" * 96 + ".jpg"]
    data = archive([(name, b"x" * (index * 400)) for index, name in enumerate(names)], format)
    members, end = read_members(data, "x.tar")
    assert members == oracle(data)
    assert len(members) == len(names)
    assert data[end:].strip(b"\0") == b""


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=130),
                  st.integers(0, 1200)),
        max_size=5,
    ),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)  # fmt: skip
def test_any_name_as_tarfile(files, format):
    data = archive([(name, b"z" * size) for name, size in files], format)
    assert read_members(data, "x.tar")[0] == oracle(data)


def test_folders_links_and_devices_are_passed_over():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo("other.jpg")
            info.type, info.linkname = kind, "l" * 150
            tar.addfile(info)
        info = tarfile.TarInfo("a.jpg")
        info.size = 2
        tar.addfile(info, io.BytesIO(b"hi"))
    members, _ = read_members(stream.getvalue(), "x.tar")
    assert [member.name for member in members] == [b"a.jpg"]
    assert stream.getvalue()[members[0].offset :][:2] == b"hi"


def test_global_pax_header_and_pax_size():
    record = b"21 comment=something\n"
    shared = header(b"g", b"%011o\0" % len(record), b"g") + record.ljust(512, b"\0")
    text = b" path=real/n\xc3\xa4me.jpg\n"
    own = b"9 size=3\n" + b"%d" % (len(text) + 2) + text
    pax = header(b"x", b"%011o\0" % len(own), b"x") + own.ljust(512, b"\0")
    data = shared + pax + header(b"short", b"00000000000\0") + b"abc".ljust(512, b"\0") + bytes(1024)
    assert read_members(data, "x.tar")[0] == [Member("real/näme.jpg".encode(), 2560, 3)]


def test_old_headers():
    v7 = header(b"v7.jpg", b"         3 \0", b"\0", magic=bytes(8)) + b"abc".ljust(512, b"\0")
    folder = header(b"old/", b"00000000000\0", b"\0", magic=bytes(8))
    signed = bytearray(header("ü.jpg".encode()))
    total = sum(byte - 256 if byte > 127 else byte for byte in signed[:148] + signed[156:]) + 256
    signed[148:156] = b"%06o\0 " % total
    assert checksum_matches(bytes(signed))
    data = folder + v7 + bytes(signed) + b"q".ljust(512, b"\0") + bytes(512)
    assert read_members(data, "x.tar")[0] == [Member(b"v7.jpg", 1024, 3), Member("ü.jpg".encode(), 2048, 1)]


def test_gnu_atime_is_no_prefix():
    data = header(b"a.jpg", magic=b"ustar  \0", prefix=b"14000000000") + b"x".ljust(512, b"\0") + bytes(512)
    assert read_members(data, "x.tar")[0][0].name == b"a.jpg"


def test_offsets_beyond_4_gib(tmp_path: Path):
    big = 9 << 30
    path = tmp_path / "big.tar"
    with open(path, "wb") as file:
        file.write(header(b"big.bin", b"\x80" + big.to_bytes(11, "big")))
        file.seek(big, os.SEEK_CUR)
        file.write(header(b"small.jpg") + b"S".ljust(512, b"\0") + bytes(1024))
    with open_tar(str(path)) as data:
        members, _ = read_members(data, str(path))
        assert members == [Member(b"big.bin", 512, big), Member(b"small.jpg", big + 1024, 1)]
        assert data[big + 1024] == ord("S")
    assert header_size(header(size=b"\x80" + (1 << 80).to_bytes(11, "big"))) == 1 << 80


def test_gnu_tar_made(tmp_path: Path):
    (tmp_path / "in").mkdir()
    for name in ("a b.jpg", "é.png", "n" * 200 + ".jpg"):
        (tmp_path / "in" / name).write_bytes(name.encode())
    for format in ("gnu", "posix", "ustar"):
        path = tmp_path / f"{format}.tar"
        members = ["a b.jpg", "é.png"] if format == "ustar" else ["."]
        subprocess.run(["tar", "-C", tmp_path / "in", f"--format={format}", "-cf", path, *members], check=True)
        assert read_members(path.read_bytes(), "x.tar")[0] == oracle(path.read_bytes())


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("empty", b"", r"x.tar: the shard is empty \(0 bytes\); fetch or pack it again"),
        ("gzip", gzip.compress(bytes(2000)), "must be a plain tar, got one compressed with gzip; run 'gzip -dc"),
        ("bzip2", bz2.compress(bytes(2000)), "must be a plain tar, got one compressed with bzip2; run 'bzip2 -dc"),
        ("xz", lzma.compress(bytes(2000)), "must be a plain tar, got one compressed with xz; run 'xz -dc"),
        ("zstd", b"\x28\xb5\x2f\xfd" + b"?" * 600, "must be a plain tar, got one compressed with zstd; run 'zstd -dc"),
        ("text", b"hello", r"must be a tar file, got bytes that are none \(b'hello'...\)"),
        ("jpeg", b"\xff\xd8\xff" + b"?" * 2000, "must be a tar file, got bytes that are none"),
        ("no end", header() + b"x".ljust(512, b"\0"), "cut short at byte 1024: no end-of-archive marker"),
        ("in data", header(size=b"00000002000\0") + b"x" * 99, "cut short in a.jpg, which ends at byte 1536 of 611"),
        ("in header", header() + b"x".ljust(512, b"\0") + header()[:100], "cut short in a header at byte 1024 of 1124"),
        ("in long name", header(kind=b"L", size=b"00000002000\0"), "cut short in a header at byte 512 of 512"),
        ("damaged", header() + bytes(512) + b"?" * 512, "damaged header at byte 1024, after a.jpg"),
        ("bad size", header(size=b"zzzzzzzzzzz\0"), "bad size b'zz.* in the header at byte 0"),
        ("sparse", header(kind=b"S", size=b"00000000000\0"), "a.jpg is stored sparse; pack the shard again"),
        (
            "pax sparse",
            header(kind=b"x", size=b"00000000026\0") + b"22 GNU.sparse.major=1\n".ljust(512, b"\0") + header(),
            "a.jpg is stored sparse",
        ),
        (
            "pax damaged",
            header(kind=b"x", size=b"00000000026\0") + b"99 path=short\n".ljust(512, b"\0") + header(),
            "damaged PAX header at byte 512",
        ),
        (
            "pax number",
            header(kind=b"x", size=b"00000000013\0") + b"11 size=-4\n".ljust(512, b"\0") + header(),
            "bad PAX number b'-4'",
        ),
    ],
)
def test_messages(tmp_path: Path, name, data, message):
    path = tmp_path / "x.tar"
    path.write_bytes(data)
    with pytest.raises(ShardError, match=message), open_tar(str(path)) as mapped:
        read_members(mapped, str(path))


def test_messages_of_paths(tmp_path: Path):
    with pytest.raises(ShardError, match=r"gone.tar: the shard does not exist; check the path"), open_tar("gone.tar"):
        pass
    with pytest.raises(ShardError, match="must be a tar file, got a folder or device"), open_tar(str(tmp_path)):
        pass


def test_every_cut_is_noticed():
    data = archive([("a.jpg", b"x" * 600), ("ü" * 80 + ".jpg", b"y")], tarfile.PAX_FORMAT)
    _, end = read_members(data, "x.tar")
    for stop in range(1, end, 37):
        with pytest.raises(ShardError, match=r"x.tar: "):
            read_members(data[:stop], "x.tar")
