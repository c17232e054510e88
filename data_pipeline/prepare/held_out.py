"""Warnings about a held-out split that says little about other text."""

from collections.abc import Iterator

from foretrain.data_pipeline.corpus.manifest import Manifest

FEW_DOCUMENTS = 10
"""Documents are the independent units of a held-out loss: with fewer, its standard error is large or not known."""
LARGE_SHARE = 0.5
"""Share of all tokens from which on a held-out split is said to be large."""


def warnings_about(manifest: Manifest) -> Iterator[str]:
    """Yield a line for each reason for which the held-out loss of a corpus would say little."""
    train, val = manifest.splits["train"], manifest.splits["val"]
    more = "give your own files with --val" if not manifest.val_sources else "give more files with --val"
    if val.num_documents < FEW_DOCUMENTS:
        yield (
            f"the held-out split has few documents ({val.num_documents}, with {val.num_tokens:,} tokens), so its loss "
            f"says little about other text: hold out more with --val-fraction, or {more}"
        )
    share = val.num_tokens / (train.num_tokens + val.num_tokens)
    if share >= LARGE_SHARE:
        yield (
            f"{share:.0%} of the tokens are held out, and {train.num_tokens:,} are left to train on: prepare more "
            "documents, since none is in two splits"
        )
