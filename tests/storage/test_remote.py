"""Folders elsewhere: on a real S3 server, and in a folder by fsspec's own names for it."""

import pytest

from sjc_fast import UserError
from sjc_fast.storage import remote
from sjc_fast.storage.remote import RemoteFolder, is_remote
from tests.support.s3 import s3_server


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)
    with s3_server(monkeypatch) as (application, url):
        yield application, url


def fill(folder):
    (folder / "timeline").mkdir(parents=True)
    (folder / "a.txt").write_text("one")
    (folder / "timeline" / "b.bin").write_bytes(bytes(range(256)) * 100)
    return [folder / "a.txt", folder / "timeline" / "b.bin"]


def test_there_and_back(server, tmp_path):
    application, url = server
    files = fill(tmp_path / "here")
    there = RemoteFolder(url)
    there.check()
    there.put(tmp_path / "here", "cat", files)
    again = RemoteFolder(url)
    assert again.fetch("cat", tmp_path / "back")
    assert [(tmp_path / "back" / f.relative_to(tmp_path / "here")).read_bytes() for f in files] == [
        f.read_bytes() for f in files
    ]
    assert not again.fetch("dog", tmp_path / "none")
    assert RemoteFolder(url).fetch("cat", tmp_path / "some", ["a.txt"])
    assert [p.name for p in (tmp_path / "some").iterdir()] == ["a.txt"]
    # What has not changed is not put again, also after it was fetched.
    application.puts.clear()
    there.put(tmp_path / "here", "cat", files)
    again.put(tmp_path / "back", "cat", [tmp_path / "back" / "a.txt"])
    assert application.puts == []
    files[0].write_text("another")
    there.put(tmp_path / "here", "cat", [*files, tmp_path / "here" / "gone"])
    assert len(application.puts) == 1


def test_a_write_that_is_refused_is_tried_again(server, tmp_path):
    application, url = server
    files = fill(tmp_path / "here")
    application.words, application.times = "a.txt", 2
    RemoteFolder(url).put(tmp_path / "here", "cat", files)
    assert RemoteFolder(url).fetch("cat", tmp_path / "back", ["a.txt"])
    application.words, application.times = "b.bin", 100
    with pytest.raises(UserError, match="s3://objects/batch: "):
        RemoteFolder(url).put(tmp_path / "here", "cat", files)
    assert application.times == 100 - remote.ATTEMPTS


def test_places_that_cannot_be(server):
    _, url = server
    with pytest.raises(UserError, match="nowhere"):
        RemoteFolder(url.replace("objects", "nowhere")).check()
    with pytest.raises(UserError, match="abc"):
        RemoteFolder("abc://bucket/folder")
    assert is_remote(url)
    assert not is_remote("runs/batch")


def test_a_folder_by_fsspec(tmp_path):
    there = RemoteFolder(f"file://{tmp_path}/there")
    there.check()
    there.put(tmp_path / "here", "cat", fill(tmp_path / "here"))
    assert there.fetch("cat", tmp_path / "back")
    assert (tmp_path / "back" / "timeline" / "b.bin").exists()
