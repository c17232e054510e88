"""The tokenizer: train a byte-level BPE, load a tokenizer.json, and cut text into pieces that can be encoded apart."""

from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from data_pipeline.errors import CorpusError

EOT = "<|endoftext|>"
KNOWN_EOTS = (EOT, "</s>")

NUM_BYTE_TOKENS = 256
MIN_VOCAB_SIZE = 1 + NUM_BYTE_TOKENS + 1
"""The end-of-text token, every byte, and at least one merge."""

MAX_PIECE_CHARS = 1 << 20


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """Return a byte-level BPE of at most `vocab_size` tokens, `<|endoftext|>` being token 0.

    It encodes every string without loss. The same texts give the same tokenizer; few texts give fewer tokens.
    Raises CorpusError where vocab_size is below MIN_VOCAB_SIZE.
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
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer of a tokenizer.json, without the truncation and padding that such a file may switch on.

    Raises CorpusError for a file that is missing or is not a tokenizer.json.
    """
    if not path.is_file():
        raise CorpusError(f"{path} does not exist: give the tokenizer.json of a tokenizer")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise CorpusError(f"{path} is not a tokenizer.json ({error})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def find_eot(tokenizer: Tokenizer, eot_token: str | None = None) -> int:
    """Return the id of the token that ends a document: `eot_token`, or the first of KNOWN_EOTS that there is."""
    for token in KNOWN_EOTS if eot_token is None else (eot_token,):
        token_id = tokenizer.token_to_id(token)
        if token_id is not None:
            return token_id
    wanted = " or ".join(map(repr, KNOWN_EOTS)) if eot_token is None else repr(eot_token)
    raise CorpusError(f"the tokenizer has no token {wanted}: name the token that ends a document with --eot-token")


def vocab_size_of(tokenizer: Tokenizer) -> int:
    """Return the number of rows an embedding needs: the largest id plus one, as a vocabulary may have gaps."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def cut_into_pieces(text: str, max_chars: int = MAX_PIECE_CHARS) -> Iterator[str]:
    """Yield consecutive pieces of at most `max_chars` characters that make up the text; a short text is one piece.

    A cut falls behind the last newline between two characters that are not white space, where a byte-level BPE never
    joins two sides, so that the pieces' tokens are the text's tokens. Only where a whole piece has no such place, or
    with a tokenizer that marks the start of a text, can a token at the cut differ.
    """
    start = 0
    while len(text) - start > max_chars:
        end = _cut_place(text, start, start + max_chars)
        yield text[start:end]
        start = end
    yield text[start:]


def _cut_place(text: str, start: int, limit: int) -> int:
    end = text.rfind("\n", start + 1, limit) + 1
    while end > 0 and (text[end - 2].isspace() or text[end].isspace()):
        end = text.rfind("\n", start + 1, end - 1) + 1
    return end if end > 0 else limit
