"""Putting files into stores: whole or not at all, faults and their messages, listings."""

from __future__ import annotations

import pickle
import time

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from s3_server import door_to

from figureground.shards.errors import ShardError
from figureground.shards.index import load_index, write_index
from figureground.shards.remote import Remote
from figureground.shards.remote_errors import GaveUp
from figureground.shards.upload import Listed, UploadRefused, list_folder, remove, upload, upload_tar

pytestmark = pytest.mark.usefixtures("short_waits")


class Fragile(MemoryFileSystem):
    """A store in memory that breaks when a test says so, and notes what it was asked."""

    protocol = "fragile"
    store: dict = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    faults: list = []  # noqa: RUF012
    asked: list = []  # noqa: RUF012
    lost_answers = 0

    def _note(self, what, path):
        self.asked.append((what, path.rsplit("/", 1)[1]))
        if self.faults and self.faults[0][0] == what:
            raise self.faults.pop(0)[1]

    def pipe_file(self, path, value, **options):
        self._note("pipe", path)
        super().pipe_file(path, value, **options)

    def mv(self, path1, path2, **options):
        self._note("mv", path1)
        super().mv(path1, path2, **options)
        if Fragile.lost_answers:
            Fragile.lost_answers -= 1
            raise ConnectionResetError("the answer was lost")


@pytest.fixture
def fragile():
    fsspec.register_implementation("fragile", Fragile, clobber=True)
    Fragile.store.clear()
    Fragile.faults.clear()
    Fragile.asked.clear()
    Fragile.lost_answers = 0
    return Fragile


@pytest.fixture
def patient() -> Remote:
    return Remote(timeout_s=5.0, deadline_s=20.0)


@pytest.fixture
def s3_door(s3):
    with door_to(s3) as (door, options):
        yield door, Remote({"s3": options}, timeout_s=5.0, deadline_s=20.0)


def test_what_is_put_can_be_read(patient, tmp_path, s3):
    remote = Remote({"s3": s3}, deadline_s=20.0)
    for folder in ("memory://put", f"file://{tmp_path}/deep/er", "s3://bucket/up"):
        for data in (b"first", b"", b"second time"):
            upload(remote, data, f"{folder}/x.tar")
            assert remote.read(f"{folder}/x.tar") == data
        upload(remote, b"1", f"{folder}/x.idx")
        listed = list_folder(remote, folder)
        assert {name: entry.size for name, entry in listed.items()} == {"x.tar": 11, "x.idx": 1}, "and nothing else"
        assert all(abs(entry.changed_s - time.time()) < 100 for entry in listed.values())
        assert list_folder(remote, folder + "/") == listed
        assert list_folder(remote, folder + "/none") == {}
        for _ in range(2):
            remove(remote, f"{folder}/x.tar")
        assert list(list_folder(remote, folder)) == ["x.idx"]
    assert isinstance(listed["x.idx"], Listed)


def test_a_reader_never_sees_half(fragile, patient):
    """While it is written a file has another name; where that breaks, nothing stays."""
    upload(patient, b"old", "fragile://s/a.tar")
    fragile.faults[:] = [("mv", PermissionError("no"))]
    with pytest.raises(UploadRefused, match=r"fragile://s/a\.tar: cannot be written: access denied \(403\)"):
        upload(patient, b"new and longer", "fragile://s/a.tar")
    assert patient.read("fragile://s/a.tar") == b"old"
    assert list(list_folder(patient, "fragile://s")) == ["a.tar"]
    written = [name for what, name in fragile.asked if what == "pipe"]
    assert all(name.startswith(".a.tar.") and name.endswith(".tmp") for name in written)
    assert len(set(written)) == 2


def test_what_may_pass_is_tried_again(fragile, patient):
    fragile.faults[:] = [
        ("pipe", ConnectionResetError("1")), ("pipe", TimeoutError("2")), ("mv", ConnectionResetError("3")),
    ]  # fmt: skip
    upload(patient, b"data", "fragile://s/a.tar")
    assert [what for what, _ in fragile.asked] == ["pipe", "pipe", "pipe", "mv", "mv"]
    assert patient.read("fragile://s/a.tar") == b"data"


def test_a_lost_answer_of_a_move(fragile, patient):
    fragile.lost_answers = 1
    upload(patient, b"data", "fragile://s/a.tar")
    assert patient.read("fragile://s/a.tar") == b"data"


def test_it_gives_up(fragile):
    fragile.faults[:] = [("pipe", ConnectionResetError("again"))] * 1000
    with pytest.raises(
        GaveUp, match=r"a\.tar\.\S+tmp: gave up after \d+ tries .* ConnectionResetError: again; check the network"
    ):
        upload(Remote(deadline_s=0.2), b"data", "fragile://s/a.tar")
    assert 2 < len(fragile.asked) < 20


@pytest.mark.parametrize("statuses", [[503], [503, 500, 503]])
def test_s3_that_is_busy(s3_door, statuses):
    door, remote = s3_door
    door.faults.extend(("PUT", "busy", status) for status in statuses)
    upload(remote, b"data" * 1000, "s3://bucket/busy/a.tar")
    assert remote.read("s3://bucket/busy/a.tar") == b"data" * 1000
    assert door.puts() == ["/bucket/busy/a.tar"] * (len(statuses) + 1), "one name only: a put is whole"


def test_s3_that_stays_busy(s3_door):
    door, remote = s3_door
    remote.deadline_s = 0.3
    door.always.append(("PUT", "a.tar", 503))
    with pytest.raises(
        GaveUp, match=r"s3://bucket/a\.tar: gave up after \d+ tries in \d s, the last failure: HTTP 503"
    ):
        upload(remote, b"data", "s3://bucket/a.tar")
    assert remote.find("s3://bucket/a.tar") is None


def test_s3_that_refuses(s3_door):
    door, remote = s3_door
    door.always.append(("PUT", "/bucket/a.tar", 403))
    with pytest.raises(
        UploadRefused,
        match=r"^s3://bucket/a\.tar: cannot be written: access denied \(403\); check the credentials and their rights",
    ) as caught:
        upload(remote, b"data", "s3://bucket/a.tar")
    assert len(door.puts()) == 1
    assert caught.value.status == 403
    assert pickle.loads(pickle.dumps(caught.value)).status == 403
    message = r"^s3://nowhere/m\S*: the bucket does not exist; make it, or check the URL$"
    with pytest.raises(UploadRefused, match=message):
        upload(remote, b"data", "s3://nowhere/m/a.tar")
    with pytest.raises(UploadRefused, match=message):
        list_folder(remote, "s3://nowhere/m")
    door.always.append(("GET", "list-type", 403))
    assert list_folder(remote, "s3://bucket/up") is None, "may not be listed"


def test_a_web_server_is_read_only(patient):
    for call in (upload, upload_tar):
        with pytest.raises(
            UploadRefused,
            match=r"^https://host/a\.tar: a web server is read-only; name a folder, or a store that can be written",
        ):
            call(patient, b"", "https://me:secret@host/a.tar?token=1")
    with pytest.raises(ShardError, match="must be protocol://path of a store"):
        upload(patient, b"", "simplecache::s3://b/a.tar")


def test_a_tar_and_its_index(s3_door, make_tar):
    door, remote = s3_door
    path = make_tar("x.masks.tar", [("a.mask.png", b"1" * 700)])
    write_index(path)
    for _ in range(2):
        upload_tar(remote, path, "s3://bucket/m/x.masks.tar")
        with open(path, "rb") as file:
            assert remote.read("s3://bucket/m/x.masks.tar") == file.read()
    steps = [(method, path.rpartition("/")[2]) for method, path in door.asked if method in ("PUT", "DELETE")]
    put = [("PUT", "x.masks.tar"), ("PUT", "x.masks.idx")]
    assert steps == [*put, ("DELETE", "x.masks.idx"), *put], "never the index of another tar"
    assert len(load_index(path)) == 1
