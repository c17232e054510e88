"""Text that is shown while it is generated is never taken back, and ends before the first stop string."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

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
