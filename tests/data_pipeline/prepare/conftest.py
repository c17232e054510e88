"""Texts to prepare."""

import json
from pathlib import Path

import pytest

from tests.data_pipeline.samples import write_texts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for tests that write their files again in each example."""
    return tmp_path_factory.mktemp("formats")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text files, and lines, some of which are not valid UTF-8."""
    folder = write_texts(tmp_path_factory.mktemp("inputs") / "in", 12, seed=1)
    lines = [json.dumps({"text": f"line {number} \ud800 " * (number % 9)}) for number in range(25)]
    (folder / "lines.jsonl").write_text("\n".join(lines))
    (folder / "zz.txt").write_bytes(b"caf\xe9 " * 9)
    return folder
