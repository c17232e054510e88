"""The parsers of untrusted bytes that are fuzzed: how each is called, what it may raise, and sound inputs of it."""

import io
import json
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.fuzz import input_files, inputs
from benchmarks.fuzz.server import AnsweringServer
from foretrain.configs.load import ConfigError, load
from foretrain.configs.sources import PRESETS, parse_override
from foretrain.data_pipeline.corpus.index import Index
from foretrain.data_pipeline.corpus.manifest import Manifest
from foretrain.data_pipeline.corpus.remote.http import HttpTransport
from foretrain.data_pipeline.corpus.remote.transport import FetchError
from foretrain.data_pipeline.corpus.structure import check_structure
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.tar_documents import TarDocuments
from foretrain.data_pipeline.prepare.text import TextReader
from foretrain.data_pipeline.prepare.token_members import TokenFormat
from foretrain.data_pipeline.prepare.tokenizer import TextBytes, load_tokenizer, vocab_size_of
from foretrain.trainer.anomalies.rollbacks import ROLLBACKS_FILE, read_rollbacks
from foretrain.trainer.checkpoint.folders import MANIFEST as CHECKSUMS
from foretrain.trainer.checkpoint.manifest import METADATA, check_files
from foretrain.trainer.checkpoint.metadata import UnsafeError, read_metadata
from foretrain.trainer.checkpoint.record import CheckpointRecord
from foretrain.trainer.interop.importing.declared import CONFIG, declared_model
from foretrain.trainer.interop.importing.errors import UnfitError
from foretrain.trainer.interop.importing.header import read_header
from foretrain.trainer.interop.importing.stored import INDEX, SINGLE, read_index
from foretrain.trainer.metrics import iter_metrics, to_line
from foretrain.trainer.run.description import Description
from foretrain.trainer.run.folder import CONFIG_FILE, DESCRIPTION_FILE, RECORD, checkpoints_in
from foretrain.trainer.run.predicted import SealedPrediction
from foretrain.trainer.text.prompts import read_prompts

Parser = Callable[[bytes], object]
Repair = Callable[[bytes], bytes]
UNNAMED = (UnicodeDecodeError, UnicodeEncodeError, json.JSONDecodeError)
"""Errors of Python itself, whose messages name no file."""
MAX_MESSAGE = 4_000
"""Characters of a refusal, at most."""
TIMEOUT_S = 2.0
"""Seconds of silence that the client of HTTP waits for."""


@dataclass(frozen=True)
class Target:
    """A parser of untrusted bytes."""

    name: str
    open: Callable[[Path], Parser]
    """Makes the parser, given a folder for its files."""
    refusals: tuple[type[Exception], ...]
    """What it may raise: errors with a message for users."""
    seeds: Callable[[Path], list[bytes]]
    """Sound inputs, given a folder for what they are made from."""
    repair: Repair = bytes
    """Corrects checksums, at which every change would end else."""
    max_bytes: int = 16_384
    """Longest input."""


def in_file(name: str, parse: Callable[[Path], object], folder: Path) -> Parser:
    """A parser that gets its bytes as a file of this name."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)

    def parse_bytes(content: bytes) -> object:
        path.write_bytes(content)
        return parse(path)

    return parse_bytes


def _tar(folder: Path) -> Parser:
    tokens = TokenFormat(vocab_size=300, eot_id=0)

    def parse(content: bytes) -> object:
        reader = TarDocuments(TextReader("text"), tokens, skip_textless=True)
        return [0 for _ in reader.read(io.BytesIO(content), "shard.tar")]

    return parse


def _structure(folder: Path) -> Parser:
    corpus = inputs.corpus_in(folder)
    manifest = Manifest.read(corpus)
    index = Index.open(corpus / "train.index.npy", manifest.splits["train"])

    def parse(path: Path) -> None:
        with path.open("rb") as file:
            check_structure(file.fileno(), "shard.tar", index, "train", 0, manifest.dtype)

    return in_file("shard.tar", parse, folder)


def _index(folder: Path) -> Parser:
    split = Manifest.read(inputs.corpus_in(folder)).splits["train"]
    return in_file("index.npy", partial(Index.open, split=split), folder)


def _tokenizer(folder: Path) -> Parser:
    def parse(path: Path) -> object:
        tokenizer = load_tokenizer(path)
        return TextBytes(tokenizer), vocab_size_of(tokenizer) if tokenizer.get_vocab_size() else 0

    return in_file("tokenizer.json", parse, folder)


def _http(folder: Path) -> Parser:
    server = AnsweringServer()
    transport = HttpTransport(server.url, TIMEOUT_S)

    def parse(content: bytes) -> object:
        server.answer = content
        body = transport.open("shard", content[0] if content else 0)
        try:
            while body.read():
                pass
        finally:
            body.close()
        return body.size_bytes

    return parse


def _override(content: bytes) -> object:
    return parse_override(content.decode("utf-8", "replace"))


def _prompts(content: bytes) -> object:
    return read_prompts(content.decode("utf-8", "replace").split("\n"), "prompts.jsonl")


def _metrics(work: Path) -> list[bytes]:
    records = [{"kind": "train", "step": 1, "loss": 2.5, "tokens": 4}, {"kind": "eval", "step": 2, "val_loss": 1e400}]
    return ["".join(map(to_line, records)).encode()]


def _constant(content: bytes) -> Callable[[Path], list[bytes]]:
    return lambda _: [content]


ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
    b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 72-75/76\r\nContent-Length: 4\r\n\r\nbody",
    b"HTTP/1.1 503 Busy\r\nRetry-After: Wed, 21 Oct 2026 07:28:00 GMT\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/elsewhere\r\n\r\n",
]

TARGETS = (
    Target("tar", _tar, (CorpusError,), lambda _: [inputs.plain_tar()], inputs.with_tar_checksums),
    Target(
        "shard_structure",
        _structure,
        (CorpusError,),
        lambda work: [inputs.file_of(work, "train-*.tar")],
        inputs.with_tar_checksums,
        max_bytes=65_536,
    ),
    Target(
        "manifest",
        lambda _: partial(Manifest.parse, path="manifest.json"),
        (CorpusError,),
        lambda work: [inputs.file_of(work, "manifest.json")],
        inputs.with_own_sha256,
    ),
    Target("index", _index, (CorpusError,), lambda work: [inputs.file_of(work, "train.index.npy")]),
    Target("tokenizer", _tokenizer, (CorpusError,), lambda work: [inputs.file_of(work, "tokenizer.json")]),
    Target(
        "config",
        partial(in_file, "config.yaml", load),
        (ConfigError,),
        lambda _: [path.read_bytes() for path in sorted(PRESETS.rglob("*.yaml"))],
    ),
    Target("override", lambda _: _override, (ConfigError,), lambda _: [b"optimizer.lr=1e-3", b"model={d_model: 8}"]),
    Target("metrics", partial(in_file, "metrics.jsonl", lambda path: [*iter_metrics(path)]), (ValueError,), _metrics),
    Target("http", _http, (FetchError,), lambda _: ANSWERS, max_bytes=4_096),
    Target(
        "checkpoint_metadata",
        lambda _: partial(read_metadata, file=Path(METADATA)),
        (UnsafeError, ValueError),
        lambda _: [inputs.checkpoint_metadata()],
    ),
    Target(
        "checkpoint_record",
        partial(in_file, RECORD, lambda path: CheckpointRecord.read(path.parent)),
        (ValueError,),
        lambda _: [inputs.checkpoint_record()],
    ),
    Target(
        "checkpoint_manifest",
        partial(in_file, f"step-1/{CHECKSUMS}", lambda path: check_files(path.parent)),
        (ValueError,),
        lambda work: [inputs.checkpoint_manifest(work / "step-1")],
        inputs.with_crc,
    ),
    Target(
        "run_config",
        partial(in_file, CONFIG_FILE, lambda path: checkpoints_in(path.parent)),
        (ValueError,),
        lambda _: [b"train:\n  checkpoint_folder: null\n"],
    ),
    Target(
        "run_description",
        partial(in_file, DESCRIPTION_FILE, lambda path: Description.read(path.parent)),
        (ValueError,),
        lambda _: [inputs.description()],
    ),
    Target(
        "prediction",
        partial(in_file, "prediction.json", SealedPrediction.read),
        (ValueError,),
        lambda _: [inputs.sealed_prediction()],
        inputs.with_seal,
    ),
    Target(
        "rollbacks",
        partial(in_file, ROLLBACKS_FILE, lambda path: [str(each) for each in read_rollbacks(path.parent)]),
        (ValueError,),
        lambda _: [inputs.rollbacks()],
    ),
    Target(
        "prompts",
        lambda _: _prompts,
        (ValueError,),
        lambda _: [b'{"prompt": "a\\ud83d\\ude42"}\n\n{"prompt": "", "seed": 3}'],
    ),
    Target(
        "safetensors",
        partial(in_file, SINGLE, read_header),
        (UnfitError,),
        lambda _: [inputs.safetensors_file()],
        inputs.with_header_length,
    ),
    Target(
        "safetensors_index",
        partial(in_file, INDEX, read_index),
        (UnfitError,),
        lambda _: [b'{"metadata": {"total_size": 8}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}'],
    ),
    Target(
        "model_config",
        partial(in_file, CONFIG, lambda path: declared_model(path.parent, None, "name")),
        (UnfitError,),
        lambda _: [inputs.model_config(name) for name in ("llama", "mistral", "qwen3", "gpt2")],
    ),
    *(
        Target(name, partial(in_file, file, input_files.read), (CorpusError,), _constant(content))
        for name, file, content in (
            ("csv", "a.csv", input_files.csv()),
            ("npy", "a.npy", input_files.npy()),
            ("megatron_index", "a.idx", input_files.megatron_index()),
            ("parquet", "a.parquet", input_files.parquet()),
            ("arrow", "a.arrow", input_files.arrow()),
        )
    ),
)
"""In the order in which they are fuzzed."""


def check(target: Target, parse: Parser, data: bytes) -> None:
    """Parse one input. The first byte decides whether checksums are repaired.

    Raises what the parser raises, unless it is a refusal with a message that users can read.
    """
    content = target.repair(data[1:]) if data[:1] and data[0] & 1 else data[1:]
    try:
        parse(content)
    except target.refusals as error:
        message = str(error)
        if type(error) in UNNAMED or not message.strip() or len(message) > MAX_MESSAGE:
            raise
        if any(ord(char) < 32 and char not in "\n\t" for char in message):
            raise AssertionError(f"control characters in the message {message[:200]!r}") from error


def limit_memory(more_bytes: int) -> None:
    """Let this process take at most that many bytes of memory beyond those that it has mapped."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (mapped + more_bytes, resource.RLIM_INFINITY))
