"""Downloads from a server that serves, breaks off, redirects, refuses and changes its mind."""

from __future__ import annotations

import hashlib
import multiprocessing
import resource
import socket
from types import SimpleNamespace

import pytest
import torch
from helpers.server import serve
from helpers.weights import same, save

from ivtuning.checkpoint.files import read_state
from ivtuning.errors import UserError, user_message
from ivtuning.hub import download, sources
from ivtuning.hub.names import local_path

DATA = bytes(range(256)) * 40
PATH = "/mae/base.pth"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("IVTUNING_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def server(cache):
    with serve() as server:
        server.files[PATH] = DATA
        yield server


def fetched(server, path=PATH):
    return local_path(server.url + path).read_bytes()


def refused(server, path=PATH):
    with pytest.raises(UserError) as error:
        local_path(server.url + path)
    assert "\n" not in str(error.value)
    return str(error.value)


def files(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")


def test_a_file_is_fetched_once(server, cache):
    place = cache / server.url.removeprefix("http://") / "mae/base.pth"
    assert local_path(server.url + PATH) == place and place.read_bytes() == DATA
    assert local_path(f"{server.url}{PATH}#ema") == place
    assert len(server.requests) == 1 and files(cache) == ["base.pth"]


def test_weights_load_from_an_address(server, tmp_path):
    state = {"a": torch.arange(3.0)}
    server.files["/x.pth"] = save(tmp_path / "x.pth", {"model": {}, "ema": state}).read_bytes()
    assert same(read_state(f"{server.url}/x.pth#ema"), state)


def test_queries_choose_other_files(server, cache):
    for query in ("?v=1", "?v=2"):
        assert fetched(server, PATH + query) == DATA
    names = files(cache)
    assert len(names) == 2 and all(n.startswith("base-") and n.endswith(".pth") for n in names)


@pytest.mark.parametrize("path", ["/../../../outside.pth", "/%2e%2e/%2E%2E/outside.pth", "/a/./b/..//x.pth"])
def test_no_address_leaves_the_cache(server, cache, path):
    place = download.place_of(server.url + path, cache)
    assert cache in place.parents and ".." not in place.parts


@pytest.mark.parametrize(
    "address, message",
    [
        ("https://host", "names no file"),
        ("https:///a.pth", "names no file"),
        ("https://host:x/a.pth", "is no address"),
        ("https://[host/a.pth", "is no address"),
        ("https://me:secret@host/a.pth", "behind a password"),
    ],
)
def test_damaged_addresses(cache, address, message):
    with pytest.raises(UserError, match=message) as error:
        local_path(address)
    assert "secret" not in str(error.value) and not cache.exists()


@pytest.mark.parametrize("host", ["a..b", "a" * 70 + ".com"])
def test_host_names_that_cannot_be(server, host):
    with pytest.raises(UserError, match=f"http://{host}/x.pth is no address .*: check the name of its host"):
        local_path(f"http://{host}/x.pth")
    server.moved[PATH] = f"http://{host}/x.pth"
    assert "is no address" in refused(server)


def test_spaces_and_other_letters(server):
    server.files["/my%20weights/%C3%A9.pth"] = DATA
    assert fetched(server, "/my weights/é.pth") == DATA
    assert fetched(server, "/my%20weights/%C3%A9.pth") == DATA and len(server.requests) == 1


def test_broken_connections_are_taken_up_where_they_ended(server, cache):
    server.limit = 4000
    assert fetched(server) == DATA
    assert server.asked() == [None, "bytes=4000-", "bytes=8000-"] and files(cache) == ["base.pth"]


def test_the_next_run_goes_on(server, cache):
    server.limit = 1000
    assert "ended after 8,000 of 10,240 bytes: the same command goes on" in refused(server)
    assert files(cache) == ["base.pth.part", "base.pth.part.tag"]
    server.limit, server.requests = None, []
    assert fetched(server) == DATA
    assert server.asked() == ["bytes=8000-"] and files(cache) == ["base.pth"]


@pytest.mark.parametrize("how", ["another version", "no ranges", "no version", "a weak version", "no size"])
def test_parts_that_cannot_be_continued_start_anew(server, how):
    server.etag = {"no version": "", "a weak version": 'W/"1"'}.get(how)
    server.limit, server.ranges, server.sizes = 1000, how != "no ranges", how != "no size"
    refused(server)
    server.limit = None
    if how == "another version":
        server.files[PATH] = DATA[::-1]
    assert fetched(server) == server.files[PATH]


def test_a_part_that_is_whole_is_taken(server, cache):
    local_path(server.url + PATH)
    file = next(cache.rglob("base.pth"))
    file.rename(f"{file}.part")
    file.with_name("base.pth.part.tag").write_text(f'"{hashlib.sha256(DATA).hexdigest()}"')
    assert fetched(server) == DATA and server.asked()[1:] == ["bytes=10240-"]


def test_a_part_longer_than_the_file_starts_anew(server, cache):
    local_path(server.url + PATH)
    file = next(cache.rglob("base.pth"))
    file.rename(f"{file}.part")
    file.with_name("base.pth.part").write_bytes(DATA * 2)
    file.with_name("base.pth.part.tag").write_text(f'"{hashlib.sha256(DATA).hexdigest()}"')
    assert fetched(server) == DATA


def test_a_connection_that_breaks_without_a_stated_length_is_reported(server):
    server.limit, server.chunked, server.ranges = 1000, True, False
    assert "of an unknown number of bytes" in refused(server)


def test_a_connection_that_brings_nothing_ends_it(server):
    server.limit = 0
    assert "ended after 0 of 10,240 bytes" in refused(server)
    assert len(server.requests) == 1


def test_redirects(server):
    server.moved = {"/old.pth": PATH, "/loop.pth": "/loop.pth"}
    assert fetched(server, "/old.pth") == DATA
    assert "redirects without end" in refused(server, "/loop.pth")


@pytest.mark.parametrize(
    "status, message",
    [(404, "no such file (HTTP 404): check"), (403, "wants a login"), (503, "HTTP 503: try again later")],
)
def test_refusals(server, cache, status, message):
    server.status["/x.pth"] = status
    line = refused(server, "/x.pth?token=secret")
    assert message in line and "secret" not in line and files(cache) == []


def test_web_pages_are_not_kept(server, cache):
    server.headers = {"Content-Type": "text/html; charset=utf-8"}
    assert "is a web page" in refused(server) and files(cache) == []


def test_empty_files_are_not_kept(server, cache):
    server.files["/x.pth"] = b""
    assert "the server's file is empty" in refused(server, "/x.pth") and files(cache) == ["x.pth.part.tag"]


def test_no_network_says_where_to_put_the_file(cache):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/a/x.pth"
        with pytest.raises(UserError, match="(?i)connection refused.*put it at .*/a/x.pth") as error:
            local_path(url)
    place = cache / url.removeprefix("http://")
    assert str(place) in str(error.value)
    place.write_bytes(b"brought")
    assert local_path(url) == place


def test_a_silent_server_is_given_up(cache, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x.pth"
        with pytest.raises(UserError, match="timed out"):
            local_path(url)


def test_offline_asks_nobody(server, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = refused(server)
    assert "not in the cache, and HF_HUB_OFFLINE is set" in message and "put it at" in message
    assert server.requests == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    fetched(server)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetched(server) == DATA


def test_known_digests_are_demanded(server, cache, monkeypatch):
    url = server.url + PATH
    monkeypatch.setitem(sources.DIGESTS, url, "0" * 64)
    assert "(10,240 bytes) has the SHA-256" in refused(server) and files(cache) == ["base.pth.part.tag"]
    monkeypatch.setitem(sources.DIGESTS, url, hashlib.sha256(DATA).hexdigest())
    assert fetched(server) == DATA


def test_detectron2_names_are_addresses(server, monkeypatch):
    monkeypatch.setattr("ivtuning.hub.fetch.DETECTRON2", f"{server.url}/mae/")
    assert local_path("detectron2://base.pth?matching_heuristics=True").read_bytes() == DATA


def test_files_of_detectron2_that_were_brought_are_taken(cache):
    address = "ImageNetPretrained/MAE/x.pth"
    place = cache / "dl.fbaipublicfiles.com/detectron2" / address
    place.parent.mkdir(parents=True)
    save(place, {"a": torch.ones(1)})
    assert same(read_state(f"detectron2://{address}?matching_heuristics=True"), {"a": torch.ones(1)})
    assert local_path(f"https://dl.fbaipublicfiles.com/detectron2/{address}") == place


def test_full_disks(server, cache, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(download.shutil, "disk_usage", lambda _: SimpleNamespace(free=9_000))
        assert "the disk of" in refused(server) and files(cache) == ["base.pth.part.tag"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError) as error:
            local_path(server.url + PATH)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "base.pth.part: raise the limit" in user_message(error.value)
    assert fetched(server) == DATA and server.asked()[-1] == "bytes=4096-"


def test_caches_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("IVTUNING_CACHE", str(tmp_path / "file"))
    assert "by setting IVTUNING_CACHE" in refused(server)


def _fetch(url, answers):
    answers.put(hashlib.sha256(local_path(url).read_bytes()).hexdigest())


def test_of_several_processes_one_fetches(server):
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    processes = [context.Process(target=_fetch, args=(server.url + PATH, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert {answers.get(timeout=5) for _ in processes} == {hashlib.sha256(DATA).hexdigest()}
    assert len(server.requests) == 1
