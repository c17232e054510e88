"""Sound inputs of the parsers, from which the fuzzer starts, and repairs of checksums, at which it would end else."""

import gzip
import hashlib
import io
import json
import pickle
import random
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from foretrain.data_pipeline.corpus.manifest import NO_SHA256
from foretrain.data_pipeline.prepare.build import prepare
from foretrain.trainer.anomalies.rollbacks import Rollback
from foretrain.trainer.checkpoint.folders import MANIFEST as CHECKSUMS
from foretrain.trainer.checkpoint.manifest import write_manifest
from foretrain.trainer.checkpoint.record import CheckpointRecord
from foretrain.trainer.prediction.sealed import PREDICTION, SEAL, VERSION, seal_of
from foretrain.trainer.run.description import Description

SETTINGS: dict[str, Any] = {"vocab_size": 300, "block_bytes": 2048, "shard_tokens": 2000, "val_fraction": 0.1}
WORDS = ["loss", "curve", "gradient", "shard", "naïve", "模型", "\n", "  ", "0.1", "(x)"]


def corpus_in(work: Path) -> Path:
    """A small prepared corpus below a folder, which is made if it is not there."""
    corpus = work / "corpus"
    if not corpus.exists():
        texts, draw = work / "texts", random.Random(0)
        texts.mkdir(parents=True, exist_ok=True)
        for number in range(20):
            (texts / f"{number}.txt").write_text(" ".join(draw.choices(WORDS, k=100)), encoding="utf-8")
        prepare([texts], corpus, **SETTINGS)
    return corpus


def file_of(work: Path, pattern: str) -> bytes:
    """The content of the first file of the small corpus with such a name."""
    return min(corpus_in(work).glob(pattern)).read_bytes()


def plain_tar() -> bytes:
    """A WebDataset shard of others: text, JSON, JSON lines, compressed text, arrays, raw tokens and a long name."""
    array = io.BytesIO()
    np.save(array, np.arange(20, dtype=np.int32))
    members = {
        "a.txt": b"some text",
        "b.json": b'{"text": "some text", "url": "x"}',
        "c.jsonl": b'{"text": "one"}\n{"text": "\\ud800"}\n',
        "d.npy": array.getvalue(),
        "e.bin": np.arange(20, dtype=np.uint16).tobytes(),
        "f.txt.gz": gzip.compress(b"packed " * 20, mtime=0),
        "g.txt.zst": zstandard.compress(b"packed " * 20),
        "long/" + "name" * 60 + ".txt": b"text",
    }
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return content.getvalue()


def with_tar_checksums(content: bytes) -> bytes:
    """A tar file whose headers, as far as their sizes lead from one to the next, have the right checksums."""
    repaired, at = bytearray(content), 0
    while at + tarfile.BLOCKSIZE <= len(repaired):
        header = repaired[at : at + tarfile.BLOCKSIZE]
        if not any(header):  # the end of the archive
            break
        header[148:156] = b" " * 8
        repaired[at + 148 : at + 156] = b"%06o\0 " % sum(header)
        try:
            size = int(header[124:135].strip(b" \0") or b"0", 8)
        except ValueError:
            break
        at += tarfile.BLOCKSIZE * (1 + -(-abs(size) // tarfile.BLOCKSIZE))
    return bytes(repaired)


def with_own_sha256(content: bytes) -> bytes:
    """A manifest that has the SHA-256 of its own text; other content as it is."""
    return _json_with(content, "sha256", _manifest_text)


def with_seal(content: bytes) -> bytes:
    """A prediction with the right seal; other content as it is."""
    return _json_with(content, SEAL, lambda values: json.dumps({**values, SEAL: seal_of(values)}).encode())


def sealed_prediction() -> bytes:
    """A file that has the seal, the version and the kind of a prediction, and little else."""
    values = {"kind": PREDICTION, "version": VERSION, "loss": 2.5, "target": {}, "curve": {"refused": "x"}, SEAL: ""}
    return with_seal(json.dumps(values).encode())


def description() -> bytes:
    """The description of a run, with arbitrary values."""
    values = {each.name: "a" if each.type in (str, "str") else 1 for each in fields(Description)}
    return json.dumps(values).encode()


def rollbacks() -> bytes:
    """The rollbacks of a run: there is one."""
    return json.dumps([asdict(Rollback(5, 4, 16, 20, "loss nan"))]).encode()


def checkpoint_record() -> bytes:
    """The record of a checkpoint, with arbitrary values."""
    record = CheckpointRecord(2, 8, 0, "a", "b", "c", sources={"d": "e"}, left_out=((1, 2),), callbacks={"f": {}})
    return json.dumps(asdict(record)).encode()


def checkpoint_metadata() -> bytes:
    """The metadata of a checkpoint that has one tensor in two parts."""
    size = torch.Size([4, 3])
    halves = [ChunkStorageMetadata(torch.Size([start, 0]), torch.Size([2, 3])) for start in (0, 2)]
    tensor = TensorStorageMetadata(TensorProperties(torch.float32), size, halves)
    indices = [MetadataIndex("weight.x", half.offsets, number) for number, half in enumerate(halves)]
    storage = dict.fromkeys(indices, _StorageInfo("__0_0.distcp", 0, 100))
    return pickle.dumps(
        Metadata({"weight.x": tensor}, {"weight.x": ("weight", "x")}, storage, StorageMeta("folder"), "1.0.0")
    )


def checkpoint_manifest(checkpoint: Path) -> bytes:
    """The list of the files of a checkpoint, which is made in an empty or missing folder: it has one file."""
    checkpoint.mkdir(parents=True, exist_ok=True)
    (checkpoint / "a").write_bytes(b"content")
    (checkpoint / CHECKSUMS).unlink(missing_ok=True)
    write_manifest(checkpoint)
    return (checkpoint / CHECKSUMS).read_bytes()


def safetensors_file() -> bytes:
    """A file of two tensors in the format safetensors."""
    entries = {
        "__metadata__": {"format": "pt"},
        "a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "a.bias": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    }
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + bytes(32)


def with_header_length(content: bytes) -> bytes:
    """A safetensors file whose header has the length that is written before it, up to its last brace."""
    end = content.rfind(b"}") + 1
    return max(0, end - 8).to_bytes(8, "little") + content[8:] if end > 8 else content


def model_config(model_type: str) -> bytes:
    """A config.json of transformers, with arbitrary sizes."""
    sizes: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 24}
    if model_type != "gpt2":
        sizes = {"hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
        sizes |= {"max_position_embeddings": 24, "num_key_value_heads": 2}
        sizes["rope_parameters"] = {"rope_theta": 10000.0, "rope_type": "default"}
    return json.dumps({"model_type": model_type, "vocab_size": 300, **sizes}).encode()


def with_crc(content: bytes) -> bytes:
    """A list of a checkpoint's files that has the checksum of its own text; other content as it is."""

    def repaired(values: dict[str, Any]) -> bytes:
        files = values["files"]
        crc = zlib.crc32(json.dumps(files, sort_keys=True).encode())
        return json.dumps({"version": 1, "files": files, "crc32": crc}, indent=1).encode()

    return _json_with(content, "files", repaired)


def _manifest_text(values: dict[str, Any]) -> bytes:
    text = json.dumps({**values, "sha256": NO_SHA256}).encode()
    sha256 = hashlib.sha256(text).hexdigest().encode()
    before, _, after = text.rpartition(NO_SHA256.encode())
    return before + sha256 + after


def _json_with(content: bytes, key: str, repaired: Callable[[dict[str, Any]], bytes]) -> bytes:
    try:
        values = json.loads(content)
        return repaired(values) if isinstance(values, dict) and key in values else content
    except (ValueError, RecursionError):
        return content
