"""The tokenizer: lossless, repeatable, and loaded again."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.tokenizer import (
    EOT,
    MIN_VOCAB_SIZE,
    cut_into_pieces,
    find_eot,
    load_tokenizer,
    train_tokenizer,
    vocab_size_of,
)

TEXTS = ["def loss(x):\n    return x * 2\n\n\nclass Norm:\n    pass\n", "le modèle apprend 模型 \t x\r\n"] * 20
TOKENIZER = train_tokenizer(iter(TEXTS), 320)


def encode(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False).ids


@given(st.text())
def test_every_string_survives_encoding(text: str) -> None:
    TOKENIZER.encode_special_tokens = True
    assert TOKENIZER.decode(encode(text), skip_special_tokens=False) == text


def test_the_eot_is_token_0_and_training_is_repeatable() -> None:
    assert find_eot(TOKENIZER) == 0
    assert TOKENIZER.id_to_token(0) == EOT
    assert vocab_size_of(TOKENIZER) <= 320
    assert train_tokenizer(iter(TEXTS), 320).to_str() == TOKENIZER.to_str()


def test_a_vocabulary_too_small_for_all_bytes_is_refused() -> None:
    with pytest.raises(CorpusError, match=f"vocab_size = {MIN_VOCAB_SIZE - 1} is too small.*at least {MIN_VOCAB_SIZE}"):
        train_tokenizer(iter(TEXTS), MIN_VOCAB_SIZE - 1)
    assert vocab_size_of(train_tokenizer(iter(TEXTS), MIN_VOCAB_SIZE)) == MIN_VOCAB_SIZE


def test_a_loaded_tokenizer_neither_truncates_nor_pads(tmp_path: Path) -> None:
    limited = Tokenizer.from_str(TOKENIZER.to_str())
    limited.enable_truncation(4)
    limited.enable_padding(length=1000)
    limited.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path / "tokenizer.json").encode(TEXTS[0]).ids == encode(TEXTS[0])


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="does not exist"):
        load_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CorpusError, match="is not a tokenizer"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_the_eot_is_found_by_its_usual_names_or_by_the_one_given() -> None:
    llama_like = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "[END]": 7}, unk_token="<s>"))
    assert find_eot(llama_like) == 1
    assert find_eot(llama_like, "[END]") == 7
    assert vocab_size_of(llama_like) == 8  # ids 2 to 6 are gaps, and still rows of an embedding
    with pytest.raises(CorpusError, match="--eot-token"):
        find_eot(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(CorpusError, match=r"'\[STOP\]'.*--eot-token"):
        find_eot(llama_like, "[STOP]")


@given(st.text(alphabet="ab \n\t\r\x1c\u2028.'é", max_size=200), st.integers(1, 50))
def test_pieces_join_to_the_text_and_are_short_enough(text: str, max_chars: int) -> None:
    pieces = list(cut_into_pieces(text, max_chars))
    assert "".join(pieces) == text
    assert all(len(piece) <= max_chars for piece in pieces)
    assert all(pieces) or text == ""


@given(st.lists(st.text(alphabet="ab \n\t\r\x1c\u2028.'é1", max_size=12), min_size=1, max_size=30))
def test_encoding_piece_by_piece_gives_the_tokens_of_the_text(lines: list[str]) -> None:
    text = "".join(f"x{line}y\n" for line in lines) + "z"
    pieces = list(cut_into_pieces(text, 30))
    assert [token for piece in pieces for token in encode(piece)] == encode(text)
