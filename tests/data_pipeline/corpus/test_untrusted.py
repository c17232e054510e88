"""Corpora and servers of others: what they may cost, where they may point, and who may write into the cache."""

import dataclasses
import hashlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from foretrain import limits
from foretrain.configs.data import CacheConfig, DataConfig, SourceConfig
from foretrain.data_pipeline.corpus.manifest import MANIFEST, Manifest
from foretrain.data_pipeline.corpus.opening import open_store
from foretrain.data_pipeline.corpus.remote.cache import Cache, CachedFile
from foretrain.data_pipeline.corpus.remote.store import RemoteStore, transport_of
from foretrain.data_pipeline.corpus.verify import read_manifest
from foretrain.data_pipeline.errors import CorpusError, UnreadableError
from foretrain.data_pipeline.prepare.build import prepare
from tests.data_pipeline.corpus.http_server import Fault, serving
from tests.data_pipeline.samples import SMALL, write_texts

MB = 10**6


class Hostile(ThreadingHTTPServer):
    """A server that answers each path as `answers` says: by a place to look at instead, or by endless bytes."""

    daemon_threads = True

    def __init__(self, answers: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers, self.paths, self.sent_bytes = answers, list[str](), 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hostile

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        answer = self.server.answers.get(self.path, "endless")
        self.send_response(302 if "://" in answer or answer == "nowhere" else 200)
        if "://" in answer:
            self.send_header("Location", answer.removeprefix("endless "))
        self.end_headers()
        try:
            while answer.startswith("endless"):
                self.server.sent_bytes += self.wfile.write(b"x" * 10_000)
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    server = Hostile({})
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def store_of(url: str, tmp_path: Path) -> RemoteStore:
    return RemoteStore(url, CacheConfig(dir=str(tmp_path / "cache"), timeout_s=5.0, retries=0))


@pytest.fixture(scope="module")
def corpus_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("theirs")
    prepare([write_texts(folder / "text")], folder / "corpus", **SMALL)
    return folder / "corpus"


def test_an_endless_manifest_ends_at_its_limit(
    hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MANIFEST_BYTES", 10**6)
    with pytest.raises(UnreadableError, match=r"manifest\.json has more than 1,000,000 bytes.*limit.*check data\.path"):
        store_of(hostile.url, tmp_path)
    assert hostile.sent_bytes < 30 * MB  # with what is in the buffers of sockets


@pytest.mark.parametrize("name", ["tokenizer.json", "train.index.npy"])
def test_an_endless_file_of_a_corpus_ends_at_its_limit(
    name: str, corpus_here: Path, hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TOKENIZER_BYTES", 10**6)
    with serving(corpus_here) as server:
        store = store_of(server.url, tmp_path)
        read_manifest(store)
    store._transport = transport_of(hostile.url, 5.0)
    with pytest.raises(UnreadableError, match=rf"{name} has more than [\d,]+ bytes, which is the limit"):
        store.path(name)
    assert hostile.sent_bytes < 30 * MB
    store.close()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"vocab_size": 2**32}, "vocab_size = 4294967296"),
        ({"eot_id": 10**30}, "eot_id"),
        ({"num_tokens": 10**30}, "num_tokens"),
        ({"num_tokens": 2**40}, "too small for its 1099511627776 tokens"),
        ({"num_members": 2**40}, "too small for its"),
        ({"size_bytes": 10**30}, "size_bytes"),
    ],
)
def test_a_manifest_that_says_more_than_can_be_is_refused(
    changes: dict[str, Any], what: str, corpus_here: Path, tmp_path: Path
) -> None:
    manifest = Manifest.read(corpus_here)
    own = {name: value for name, value in changes.items() if hasattr(manifest, name)}
    train = manifest.splits["train"]
    first = dataclasses.replace(train.shards[0], **{k: v for k, v in changes.items() if k not in own})
    more = first.num_tokens - train.shards[0].num_tokens
    split = dataclasses.replace(train, shards=[first, *train.shards[1:]], num_tokens=train.num_tokens + more)
    changed = dataclasses.replace(manifest, splits={**manifest.splits, "train": split}, **own)
    (tmp_path / "corpus").mkdir()
    changed.write(tmp_path / "corpus")
    with pytest.raises(CorpusError, match=what) as found:
        Manifest.read(tmp_path / "corpus")
    assert len(str(found.value)) < 1000


def test_a_shard_of_any_promised_size_empties_the_cache_of_no_other_corpus_before_its_bytes_arrive(
    tmp_path: Path,
) -> None:
    ours, theirs = (Cache(tmp_path / "cache", url, "0", 400 * MB) for url in ("ours", "theirs"))
    for number in range(10):
        with (ours.folder / f"shard-{number}").open("wb") as file:
            file.truncate(30 * MB)

    def sends_little(file: BinaryIO) -> None:
        file.write(b"x" * 1000)
        raise UnreadableError("the server is gone", "shard-0", 0)

    with pytest.raises(UnreadableError):
        theirs.open_or_fetch(CachedFile("shard-0", 390 * MB, "0"), sends_little)
    assert len([*ours.folder.glob("shard-*")]) == 10


@pytest.mark.parametrize("name", ["shard-0.100.part", "shard-0"])
def test_a_link_in_the_cache_is_never_followed(name: str, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", "u", "0", 1000)
    (tmp_path / "precious").write_bytes(b"y" * 100)
    (cache.folder / name).symlink_to(tmp_path / "precious")

    def fetch(file: BinaryIO) -> None:
        file.write(b"x" * 100)

    with pytest.raises(CorpusError, match=rf"{name} is a link, which no cache has: remove it"):
        cache.open_or_fetch(CachedFile("shard-0", 100, "0"), fetch)
    assert (tmp_path / "precious").read_bytes() == b"y" * 100


def test_a_cache_is_private_and_one_that_others_can_write_is_refused(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", "u", "0", 1000)
    assert [folder.stat().st_mode & 0o777 for folder in (cache.root, cache.folder)] == [0o700, 0o700]
    cache.folder.chmod(0o770)
    Cache(tmp_path / "cache", "u", "0", 1000)
    assert cache.folder.stat().st_mode & 0o777 == 0o750
    cache.root.chmod(0o1777)
    with pytest.raises(CorpusError, match=r"everybody can write into .*cache.*set data\.cache\.dir to a folder"):
        Cache(tmp_path / "cache", "u", "0", 1000)


def test_a_cache_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Cache(tmp_path / "cache", "u", "0", 1000)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(CorpusError, match=r"cache belongs to user \d+, who could replace the tokens in it"):
        Cache(tmp_path / "cache", "u", "0", 1000)


def test_a_replaced_shard_in_the_cache_is_found_if_hits_are_checked(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", "u", "0", 1000, checks_hits=True)
    right = CachedFile("shard-0", 100, hashlib.sha256(b"x" * 100).hexdigest())
    (cache.folder / "shard-0").write_bytes(b"y" * 100)

    def fetch(file: BinaryIO) -> None:
        file.write(b"x" * 100)

    opened = cache.open_or_fetch(right, fetch)
    assert opened is not None and os.pread(opened[0], 100, 0) == b"x" * 100


def test_an_answer_that_points_to_another_server_is_not_followed(hostile: Hostile, tmp_path: Path) -> None:
    other = Hostile({})
    other.server_close()
    for place in (f"{other.url}/{MANIFEST}", f"ftp://127.0.0.1/{MANIFEST}", "http://127.0.0.1:notaport/"):
        hostile.answers[f"/{MANIFEST}"] = place
        with pytest.raises(UnreadableError, match=r"points to .*, on another server or without encryption"):
            store_of(hostile.url, tmp_path)


def test_the_endless_body_of_an_answer_that_points_elsewhere_is_not_read(hostile: Hostile, tmp_path: Path) -> None:
    hostile.answers[f"/{MANIFEST}"] = f"endless {hostile.url}/here"
    hostile.answers["/here"] = "nothing"
    store_of(hostile.url, tmp_path).close()
    assert hostile.paths == [f"/{MANIFEST}", "/here"]
    assert hostile.sent_bytes < 30 * MB


def test_an_answer_that_points_nowhere_or_to_itself_is_an_error_with_its_status(
    hostile: Hostile, tmp_path: Path
) -> None:
    for place in ("nowhere", f"{hostile.url}/{MANIFEST}"):
        hostile.answers[f"/{MANIFEST}"] = place
        with pytest.raises(UnreadableError, match=rf"{MANIFEST} answers 302"):
            store_of(hostile.url, tmp_path)


@pytest.mark.parametrize("place", ["http://127.0.0.1:18[elsewhere", "http://12].0.0.1/x", "http://[::1"])
def test_an_answer_that_points_to_no_url_is_an_error_that_names_the_address_asked(
    place: str, hostile: Hostile, tmp_path: Path
) -> None:
    hostile.answers[f"/{MANIFEST}"] = place
    with pytest.raises(UnreadableError, match=rf"{hostile.url}/{MANIFEST} points to what is not a URL"):
        store_of(hostile.url, tmp_path)


def test_an_answer_that_points_to_the_same_server_is_followed(corpus_here: Path, tmp_path: Path) -> None:
    with serving(corpus_here) as server:
        server.faults[MANIFEST].append(Fault(status=302, headers={"Location": f"{server.url}/{MANIFEST}"}))
        assert store_of(server.url, tmp_path).read(MANIFEST) == (corpus_here / MANIFEST).read_bytes()


def test_a_range_with_thousands_of_digits_is_repeated_and_no_raw_error(corpus_here: Path, tmp_path: Path) -> None:
    with serving(corpus_here) as server:
        store = RemoteStore(server.url, CacheConfig(dir=str(tmp_path / "cache"), timeout_s=2.0, retries=1))
        manifest = read_manifest(store)
        shard = manifest.splits["train"].shards[0].name
        server.faults[shard].append(Fault(cut_after=2000))
        server.always[shard] = Fault(headers={"Content-Range": f"bytes {'9' * 5000}-"})
        with pytest.raises(UnreadableError, match="sent another part than was requested"):
            store.open(shard)
        store.close()


def test_a_corpus_is_refused_unless_its_manifest_is_the_one_that_the_config_names(
    corpus_here: Path, tmp_path: Path
) -> None:
    right = hashlib.sha256((corpus_here / MANIFEST).read_bytes()).hexdigest()
    with serving(corpus_here) as server:
        for where in (str(corpus_here), server.url):
            store = open_store(where, CacheConfig(dir=str(tmp_path / "cache")))
            assert read_manifest(store, right).version == 2
            with pytest.raises(CorpusError, match=rf"has the SHA-256 {right}, and the config asks for 0000"):
                read_manifest(store, "0" * 64)
            store.close()


def test_what_is_no_sha256_is_refused() -> None:
    for made in (lambda: DataConfig(sha256="x"), lambda: SourceConfig("web", sha256="A" * 64)):
        with pytest.raises(ValueError, match=r"sha256 = .* must be the 64 hexadecimal digits"):
            made()
    with pytest.raises(ValueError, match=r"set sources\.NAME\.sha256"):
        DataConfig(sha256="0" * 64, sources={"web": SourceConfig("web")})
