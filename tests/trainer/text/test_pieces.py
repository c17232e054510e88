"""Text that is shown while it is generated is never taken back, and ends before the first stop string."""

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from foretrain.data_pipeline.prepare.tokenizer import train_tokenizer
from foretrain.trainer.text.pieces import DecodedText, StoppedText

LETTERS = st.text("ab", max_size=12)


@given(st.lists(LETTERS, max_size=8), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_pieces_are_the_text_up_to_the_first_stop_string(pieces: list[str], stops: list[str]) -> None:
    text, shown = StoppedText(stops), ""
    for piece in pieces:
        shown += text.add(piece)
    shown += text.end()
    complete = "".join(pieces)
    places = [complete.find(stop) for stop in stops if stop in complete]
    assert shown == complete[: min(places, default=len(complete))]
    assert text.is_stopped == bool(places)


def test_text_that_can_begin_no_stop_string_is_shown_at_once() -> None:
    text = StoppedText(["\n\n", "END"])
    assert [text.add(piece) for piece in ("one", "\n", "two E", "N", "T", "\n", "\nthree")] == [
        "one",
        "",
        "\ntwo ",
        "",
        "ENT",
        "",
        "",
    ]
    assert (text.end(), text.is_stopped) == ("", True)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(iter(["日本語 🙂 and plain text"]), 260)


@given(st.text(max_size=20))
def test_the_text_of_tokens_is_what_the_tokenizer_decodes_and_breaks_no_character(
    tokenizer: Tokenizer, written: str
) -> None:
    ids = tokenizer.encode(written, add_special_tokens=False).ids
    text = DecodedText(tokenizer)
    pieces = [text.add(token) for token in ids]
    assert "".join(pieces) + text.end() == tokenizer.decode(ids, skip_special_tokens=False)
    assert "\ufffd" in written or not any("\ufffd" in piece for piece in pieces)


def test_an_incomplete_character_at_the_end_is_shown_as_the_tokenizer_shows_it(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a日", add_special_tokens=False).ids[:-1]
    text = DecodedText(tokenizer)
    shown = "".join(text.add(token) for token in ids)
    assert shown == "a"
    assert shown + text.end() == tokenizer.decode(ids, skip_special_tokens=False)


@pytest.fixture(scope="module")
def with_bytes() -> Tokenizer:
    """A tokenizer as that of Llama 2: what it has no token for is bytes, and a text's first space is left out."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<unk>", "<s>", *byte_tokens], show_progress=False)
    tokenizer.train_from_iterator(["one plus two is three, and so on"] * 3, trainer)
    # As in the published files, bytes are tokens that no text can spell out.
    return Tokenizer.from_str(tokenizer.to_str().replace('"special":true', '"special":false'))


@pytest.fixture(scope="module")
def of_words() -> Tokenizer:
    """A tokenizer as that of BERT, which joins tokens by spaces."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    tokenizer.train_from_iterator(
        ["one plus two"], trainers.WordPieceTrainer(special_tokens=["[UNK]"], show_progress=False)
    )
    return tokenizer


WORDS = st.lists(st.sampled_from(["one", "plus", "two", "日本語", "🙂", "on", "s"]), min_size=1, max_size=6)


@given(before=WORDS, after=WORDS)
def test_the_text_after_other_tokens_is_what_they_lack(
    with_bytes: Tokenizer, of_words: Tokenizer, tokenizer: Tokenizer, before: list[str], after: list[str]
) -> None:
    for each in (with_bytes, of_words, tokenizer):
        ids = [each.encode(" ".join(words), add_special_tokens=False).ids for words in (before, after)]
        text = DecodedText(each, ids[0])
        shown = "".join(text.add(token) for token in ids[1]) + text.end()
        alone, both = (each.decode(tokens, skip_special_tokens=False) for tokens in (ids[0], [*ids[0], *ids[1]]))
        assert alone + shown == both


NAMES_OF_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TOKENS = st.one_of(
    st.sampled_from(NAMES_OF_BYTES), st.sampled_from([NAMES_OF_BYTES[byte] for byte in "🙂é a".encode()])
)


@given(
    names=st.lists(st.one_of(TOKENS, st.sampled_from(["▁", "s", "o"])), max_size=12),
    prompt=st.sampled_from(["", "one", "one 🙂"]),
)
def test_bytes_that_are_no_text_are_replaced_and_change_nothing_that_was_shown(
    with_bytes: Tokenizer, names: list[str], prompt: str
) -> None:
    text = DecodedText(with_bytes, with_bytes.encode(prompt, add_special_tokens=False).ids)
    ids = with_bytes.get_vocab()
    shown = "".join([text.add(ids[name]) for name in names]) + text.end()
    expected = ""
    for are_bytes, run in groupby(names, NAMES_OF_BYTES.__contains__):
        if are_bytes:
            expected += bytes(map(NAMES_OF_BYTES.index, run)).decode("utf-8", "replace")
        else:
            expected += "".join(run).replace("▁", " ")
    starts_with_space = not prompt and names[:1] == ["▁"]
    assert shown == (expected[1:] if starts_with_space else expected)


def test_a_stop_string_is_the_same_however_the_text_arrives() -> None:
    for pieces in (["abcd"], ["ab", "c", "d"], ["a", "bcd"]):
        text = StoppedText(["abcd", "bc"])
        assert "".join(text.add(piece) for piece in pieces) + text.end() == ""
