"""The tokenizer: training, loading and saving, and the cut of long texts into pieces that are encoded separately."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from foretrain import limits
from foretrain.data_pipeline.corpus.manifest import read_bounded
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.background import abandon, start
from foretrain.files import write_atomically

EOT = "<|endoftext|>"
KNOWN_EOTS = (EOT, "</s>")

NUM_BYTE_TOKENS = 256
MIN_VOCAB_SIZE = 1 + NUM_BYTE_TOKENS + 1
"""The end-of-text token, every byte, and at least one merge."""

MAX_PIECE_CHARS = 1 << 20


class _StoppedError(Exception):
    """End of a training whose result nobody needs."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Return a byte-level BPE of at most `vocab_size` tokens; token 0 is `<|endoftext|>`.

    It encodes every string without loss. The same texts give the same tokenizer; few texts give fewer tokens.
    Raises CorpusError if vocab_size is below MIN_VOCAB_SIZE. Ctrl-C ends the training at once.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise CorpusError(
            f"vocab_size = {vocab_size} is too small: the end-of-text token, {NUM_BYTE_TOKENS} bytes and one merge "
            f"need at least {MIN_VOCAB_SIZE}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    stopped = False

    def until_stopped() -> Iterator[str]:
        for text in texts:
            if stopped:
                raise _StoppedError
            yield text

    training = None
    try:  # from before its start, since Ctrl-C may come while the thread starts
        training = start(lambda: tokenizer.train_from_iterator(until_stopped(), trainer))
        training.result()
    except BaseException:
        stopped = True
        if training is not None:
            abandon(training)
        raise
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write a tokenizer.json in one step. Raises OSError, while the library's own `save` raises bare Exception."""
    write_atomically(path, tokenizer.to_str(pretty=True))


def load_tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer of a tokenizer.json, without the truncation and padding that the file may ask for.

    Raises CorpusError if the file is missing or is not a tokenizer.json.
    """
    if not path.is_file():
        raise CorpusError(f"{path} does not exist: give the tokenizer.json of a tokenizer")
    text = read_bounded(path, limits.TOKENIZER_BYTES)
    try:
        _check_ids(json.loads(text))
        tokenizer = Tokenizer.from_str(text.decode())
    except Exception as error:  # the library raises bare Exception
        raise CorpusError(f"{path} is not a tokenizer.json ({error})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _check_ids(fields: Any) -> None:
    """Raise ValueError for a token id beyond all vocabularies: the library takes memory for all smaller ids."""
    found = [fields]
    while found:
        each = found.pop()
        if isinstance(each, dict):
            ids = [value for key, value in each.items() if key in ("id", "ids")]
            vocab = each.get("vocab")
            ids += vocab.values() if isinstance(vocab, dict) else []
            for number in (one for value in ids for one in (value if isinstance(value, list) else [value])):
                if isinstance(number, int) and not 0 <= number < limits.VOCAB_SIZE:
                    raise ValueError(f"the token id {str(number)[:20]} is not between 0 and {limits.VOCAB_SIZE:,}")
            found += [value for key, value in each.items() if key != "vocab" and isinstance(value, dict | list)]
        elif isinstance(each, list):
            found += [value for value in each if isinstance(value, dict | list)]


def find_eot(tokenizer: Tokenizer, eot_token: str | None = None) -> int:
    """Return the id of the token that ends a document: `eot_token`, or the first of KNOWN_EOTS in the vocabulary."""
    for token in KNOWN_EOTS if eot_token is None else (eot_token,):
        token_id = tokenizer.token_to_id(token)
        if token_id is not None:
            return token_id
    wanted = " or ".join(map(repr, KNOWN_EOTS)) if eot_token is None else repr(eot_token)
    raise CorpusError(f"the tokenizer has no token {wanted}: name the token that ends a document with --eot-token")


def vocab_size_of(tokenizer: Tokenizer) -> int:
    """Return the number of rows that an embedding needs: the largest id plus one, because ids may have gaps."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


class TextBytes:
    """The number of UTF-8 bytes in the text of tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._bytes_of_token = _bytes_of_token(tokenizer)

    def count(self, tokens: npt.NDArray[np.integer]) -> int:
        if self._bytes_of_token is not None:
            return int(self._bytes_of_token[tokens].sum())
        return len(self._tokenizer.decode(tokens.tolist(), skip_special_tokens=False).encode("utf-8"))


def _bytes_of_token(tokenizer: Tokenizer) -> npt.NDArray[np.int64] | None:
    """Return the number of bytes of each token's text, of shape (vocab_size,); None unless the BPE is byte-level.

    A byte-level token is spelled with one character for each of its bytes, but an added token with its own text.
    """
    decoder = json.loads(tokenizer.to_str())["decoder"] or {}
    if "ByteLevel" not in [decoder.get("type"), *(each.get("type") for each in decoder.get("decoders", []))]:
        return None
    num_bytes = np.zeros(vocab_size_of(tokenizer), dtype=np.int64)
    for token, token_id in tokenizer.get_vocab(with_added_tokens=False).items():
        num_bytes[token_id] = len(token)
    for token_id, added in tokenizer.get_added_tokens_decoder().items():
        num_bytes[token_id] = len(added.content.encode("utf-8"))
    return num_bytes


def cut_into_pieces(text: str, max_chars: int = MAX_PIECE_CHARS) -> Iterator[str]:
    """Yield consecutive pieces of a text, each of at most `max_chars` characters; a short text is one piece.

    A piece ends after the last newline between two characters that are not white space. A byte-level BPE never joins
    the two sides, so the tokens of the pieces are those of the text. A token at the cut can differ only if a piece has
    no such newline, or if the tokenizer marks the start of a text.
    """
    start = 0
    while len(text) - start > max_chars:
        end = _end_of_piece(text, start, start + max_chars)
        yield text[start:end]
        start = end
    yield text[start:]


def _end_of_piece(text: str, start: int, limit: int) -> int:
    end = text.rfind("\n", start + 1, limit) + 1
    while end > 0 and (text[end - 2].isspace() or text[end].isspace()):
        end = text.rfind("\n", start + 1, end - 1) + 1
    return end if end > 0 else limit
