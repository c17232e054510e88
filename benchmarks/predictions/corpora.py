"""The texts of the benchmark, which every installation of the project has: no network is needed.

code       Python's standard library
english    the docstrings of the standard library and of the libraries that the project needs
libraries  the Python sources of those libraries
headers    the C++ headers of torch, which the noise study rules out: they repeat themselves
"""

import ast
import hashlib
import json
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from foretrain.data_pipeline.corpus.manifest import MANIFEST
from foretrain.data_pipeline.prepare.input_files import standard_library

BYTES = 258
"""Vocabulary of a tokenizer of bytes."""
DOCUMENTED = ("matplotlib", "numpy", "scipy", "sympy", "torch")
"""Packages whose docstrings are read; all of them are installed with the project."""
MAX_BYTES = 30_000_000
"""Size of a text: no run reads half of it."""
LEAST_LETTERS = 100
"""Shorter docstrings are left out: they are the names of functions again."""


def inputs_of(name: str, folder: Path) -> list[str]:
    """The arguments of `foretrain prepare` for a text, which is collected in `folder` if it needs to be."""
    if name == "code":
        return ["--stdlib"]
    file = folder / f"{name}.jsonl"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        lines, size = [], 0
        for text in _distinct({"english": docstrings, "libraries": libraries, "headers": headers}[name]()):
            size += len(text.encode())
            if size > MAX_BYTES:
                break
            lines.append(json.dumps({"text": text}) + "\n")
        file.write_text("".join(lines), encoding="utf-8")
    return [str(file)]


def fingerprint(corpus: Path) -> str:
    """SHA-256 of the manifest of a corpus, which has those of its shards and of its tokenizer."""
    return hashlib.sha256((corpus / MANIFEST).read_bytes()).hexdigest()


def docstrings() -> Iterator[str]:
    """Yield the docstrings of each module as one document."""
    packages = [Path(sysconfig.get_paths()["purelib"]) / name for name in DOCUMENTED]
    for root in (standard_library(), *packages):
        for file in sorted(root.rglob("*.py")):
            if root == standard_library() and "site-packages" in file.parts:
                continue
            text = "\n\n".join(_docstrings_in(file))
            if text:
                yield text


def libraries() -> Iterator[str]:
    """Yield the Python sources of the libraries."""
    for name in DOCUMENTED:
        for file in sorted((Path(sysconfig.get_paths()["purelib"]) / name).rglob("*.py")):
            if text := file.read_text(encoding="utf-8", errors="replace").strip():
                yield text


def headers() -> Iterator[str]:
    """Yield the C++ headers of torch."""
    root = Path(sysconfig.get_paths()["purelib"]) / "torch" / "include"
    for file in sorted(root.rglob("*.h")):
        yield file.read_text(encoding="utf-8", errors="replace")


def _docstrings_in(file: Path) -> list[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # tests of the standard library have such files
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
    return [text for text in found if text and len(text) >= LEAST_LETTERS]


def _distinct(texts: Iterator[str]) -> Iterator[str]:
    """Leave out texts that were there already."""
    known: set[bytes] = set()
    for text in texts:
        key = hashlib.sha256(text.encode()).digest()
        if key not in known:
            known.add(key)
            yield text
