"""`data peek` shows the tokens that training gets and their true places, and escapes control characters."""

import io
import re
import shutil
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tokenizers import Tokenizer

from foretrain.configs.data import DataConfig, SourceConfig, StageConfig
from foretrain.configs.schema import Config, ModelConfig, TrainConfig
from foretrain.data_pipeline.inspect.peek import SampleInfo, inspect_sample
from foretrain.data_pipeline.inspect.peek_view import show
from foretrain.data_pipeline.prepare.build import prepare
from foretrain.data_pipeline.stream.batch import IGNORE
from foretrain.data_pipeline.stream.data import Data, open_data
from foretrain.printable import printable
from tests.data_pipeline.samples import SMALL, write_texts

SEQ_LEN = 48
PACKINGS = ("windows", "documents", "best_fit")


def data_config(corpus: Path, cache_dir: Path, **settings: Any) -> DataConfig:
    """The data section of a run on one corpus."""
    config = DataConfig(str(corpus), **settings)
    config.cache.dir = str(cache_dir)
    return config


def shown(data: DataConfig, g: int, count: int = 1, *, terminal: bool = False) -> str:
    """The text that is printed."""
    config = Config(model=ModelConfig(seq_len=SEQ_LEN), data=data, train=TrainConfig(global_batch_size=4))
    file = io.StringIO()
    show(config, g, count, Console(file=file, width=80, force_terminal=terminal, legacy_windows=False))
    return file.getvalue()


@lru_cache
def members_of(shard: Path) -> tuple[list[tarfile.TarInfo], bytes]:
    """The members of a shard, as any tar reader finds them, and its bytes."""
    with tarfile.open(shard) as tar:
        return tar.getmembers(), shard.read_bytes()


def check_place(shard: Path, member: str, at_byte: int, tokens: np.ndarray) -> None:
    """Check that a shard holds these tokens, or the first of them if the member ends, at this byte of this member."""
    members, stored = members_of(shard)
    (info,) = (each for each in members if each.offset_data <= at_byte < each.offset_data + each.size)
    assert info.name == f"{member}.tokens.npy"
    found = np.frombuffer(stored[at_byte : info.offset_data + info.size], "<u2")[: len(tokens)]
    assert len(found) > 0
    assert (found == tokens[: len(found)]).all()


def check_sample(folder: Path, data: Data, seen: SampleInfo) -> None:
    """Check that a sample is what training gets, and that the place of each part is right."""
    batch = data.train.read(np.array([seen.g]))
    stream, tokens_L = seen.source.stream, seen.tokens_L
    assert (batch.tokens_BL[0] == tokens_L).all()
    assert seen.num_padding == batch.num_padding
    assert seen.num_ignored == (batch.targets_BL == IGNORE).sum()
    rest = np.ones(SEQ_LEN, dtype=bool)
    for part in seen.parts:
        tokens = tokens_L[part.at : part.at + part.count]
        rest[part.at : part.at + part.count] = False
        assert (stream.read(part.start, part.count) == tokens).all()
        assert stream.eot_id not in tokens[:-1]
        document = part.start - part.num_before
        assert document == 0 or stream.read(document - 1, 1)[0] == stream.eot_id
        assert stream.eot_id not in stream.read(document, part.num_before)
        check_place(folder / part.place.shard, part.place.member, part.place.offset_bytes, tokens)
    assert not rest[[part.at for part in seen.parts]].any()
    assert (tokens_L[rest] == stream.eot_id).all()  # padding, or what leads in a document
    assert (np.diff([part.at for part in seen.parts]) > 0).all()


@pytest.mark.parametrize("packing", PACKINGS)
def test_every_sample_is_what_training_gets_and_its_places_are_right(
    packing: Any, corpus: Path, tmp_path: Path
) -> None:
    data = open_data(data_config(corpus, tmp_path, packing=packing), SEQ_LEN)
    num_samples = data.train.sources[0].samples.num_samples
    for g in range(0, num_samples + 10, 2):
        seen = inspect_sample(data, g)
        check_sample(corpus, data, seen)
        assert (seen.epoch, seen.stage, seen.replaced) == (g // num_samples, "", None)
        if packing == "best_fit":  # the EOT that leads in a document is none of its own
            assert [part.at for part in seen.parts] == [
                span.at + int(seen.tokens_L[span.at] == data.any_stream.eot_id) for span in seen.spans
            ]
    if packing == "best_fit":
        assert data.train.read(np.arange(num_samples)).num_padding > 0


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_start_of_a_document_is_found_in_an_earlier_shard(
    packing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foretrain.data_pipeline.corpus.shard_writer.MAX_PART_BYTES", 100)
    write_texts(tmp_path / "texts", num_documents=12)
    folder = tmp_path / "corpus"
    prepare([tmp_path / "texts"], folder, **{**SMALL, "block_bytes": 100, "shard_tokens": 70})
    data = open_data(data_config(folder, tmp_path, packing=packing), SEQ_LEN)
    most = 0
    for g in range(data.train.sources[0].samples.num_samples):
        seen = inspect_sample(data, g)
        check_sample(folder, data, seen)
        most = max(most, *(part.num_before for part in seen.parts))
    assert most > 3 * 70


def test_a_sample_of_a_mixture_names_its_source_and_stage(corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus, tmp_path / "copy")
    config = DataConfig(
        sources={"web": SourceConfig(str(corpus)), "code": SourceConfig(str(tmp_path / "copy"))},
        stages={"anneal": StageConfig(from_tokens=10 * SEQ_LEN, weights={"code": 1})},
        mixture_block=8,
    )
    data = open_data(config, SEQ_LEN)
    folders = {"web": corpus, "code": tmp_path / "copy"}
    names = []
    for g in range(20):
        seen = inspect_sample(data, g)
        check_sample(folders[seen.source.name], data, seen)
        names.append((seen.source.name, seen.stage))
    assert set(names[:10]) == {("web", ""), ("code", "")}
    assert set(names[10:]) == {("code", "anneal")}
    text = shown(config, 9, 2)
    assert "global sample 9: row 1 of the batch of step 3 --" in text
    assert "global sample 10: row 2 of the batch of step 3, stage anneal --" in text
    assert f"-- source code ({tmp_path / 'copy'}), epoch 0" in text


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_printed_text_is_that_of_the_sample(packing: Any, corpus: Path, tmp_path: Path) -> None:
    config = data_config(corpus, tmp_path, packing=packing)
    data = open_data(config, SEQ_LEN)
    tokenizer = Tokenizer.from_file(str(corpus / "tokenizer.json"))
    for g in range(12):
        seen, text = inspect_sample(data, g), shown(config, g)
        lines = text.splitlines()
        assert all(line.startswith(("-- ", "| ")) for line in lines)
        headings = [line for line in lines if line.startswith("-- document ")]
        assert len(headings) == len(seen.parts)
        for number, (part, heading) in enumerate(zip(seen.parts, headings, strict=True), start=1):
            place = part.place
            begins = "continues" if part.num_before else "begins"
            assert heading.startswith(f"-- document {number} {begins} at position {part.at}")
            assert heading.endswith(f"shard {place.shard}, member {place.member}, byte {place.offset_bytes:,} --")
            # No character of the corpus's text is unprintable: what is shown is what the tokens say.
            after = lines[lines.index(heading) + 1 :]
            shown_text = "\n".join(line[2:] for line in _until_next_line(after))
            tokens = seen.tokens_L[part.at : part.at + part.count].tolist()
            assert shown_text.startswith(tokenizer.decode(tokens, skip_special_tokens=False))
        assert (f"{seen.num_padding} positions of padding" in text) == (seen.num_padding > 0)
        assert f"{SEQ_LEN - seen.num_ignored} of {SEQ_LEN} targets carry loss" in text


def _until_next_line(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if line.startswith("-- "):
            return
        yield line


def test_documents_have_different_colours_and_a_line_before_each(corpus: Path, tmp_path: Path) -> None:
    config = data_config(corpus, tmp_path)
    plain, coloured = shown(config, 0), shown(config, 0, terminal=True)
    rules = [line for line in coloured.splitlines() if "\x1b[1;33m-- " in line]
    assert len(rules) == len([line for line in plain.splitlines() if line.startswith("-- ")])
    assert all(len(re.sub(r"\x1b\[[0-9;]*m", "", rule)) >= 80 for rule in rules)


NASTY = (
    "\x1b[31mred\x1b]0;title\x07 \rover \x08\x7f\x9b2J \u202eeltrever\u202c \u200bzero\ufeff \x00 "
    "[bold]x[/bold] :smile:"
)


def test_no_control_character_of_a_text_reaches_the_terminal(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / f"{number}.txt").write_text(f"{number} {NASTY}\n" * 6, newline="")
    prepare(sorted(tmp_path.glob("*.txt")), tmp_path / "corpus", vocab_size=300, val_fraction=0.2)
    text = shown(data_config(tmp_path / "corpus", tmp_path), 0, 3)
    assert all(char.isprintable() or char == "\n" for char in text)
    for spelled in (r"\x1b[31mred", r"\x1b]0;title\x07", r"\rover", r"\u202eeltrever", "[bold]x[/bold] :smile:"):
        assert spelled in text
    coloured = shown(data_config(tmp_path / "corpus", tmp_path), 0, 3, terminal=True)
    without_ours = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert all(char.isprintable() or char == "\n" for char in without_ours)
    assert r"\x1b[31mred" in without_ours


@settings(max_examples=50)
@given(st.text())
def test_printable_text_is_unchanged_and_the_rest_is_escaped(text: str) -> None:
    safe = printable(text)
    assert all(char.isprintable() or char in "\n\t" or char.isspace() for char in safe)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", safe)
    kept = "".join(char for char in text if char.isprintable())
    assert [char for char in kept if char not in safe] == []
    if text.isprintable():
        assert safe == text


def test_a_sample_that_replaces_an_unreadable_one_is_shown_as_such(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    shutil.copytree(corpus, folder)
    g = 3
    (part, *_) = inspect_sample(open_data(data_config(folder, tmp_path), SEQ_LEN), g).parts
    with (folder / part.place.shard).open("r+b") as file:
        file.seek(part.place.offset_bytes)
        file.write(b"\xff\xff")  # no token of so small a vocabulary
    config = data_config(folder, tmp_path, max_bad_samples=1)
    seen = inspect_sample(open_data(config, SEQ_LEN), g)
    assert seen.replaced is not None
    assert (seen.replaced.shard, seen.sample) == (part.place.shard, seen.replaced.used)
    check_sample(folder, open_data(config, SEQ_LEN), seen)
    assert f"replaces sample {seen.replaced.sample}, which cannot be read" in shown(config, g)
