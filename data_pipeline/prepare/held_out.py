"""Warnings about a held-out split that says little about other text."""

from collections.abc import Iterator

from foretrain.data_pipeline.corpus.manifest import Manifest, split_of_set

FEW_DOCUMENTS = 10
"""Documents are the independent units of a held-out loss: with fewer, its standard error is large or not known."""
LARGE_SHARE = 0.5
"""Share of all tokens from which on a held-out split is said to be large."""


def warnings_about(manifest: Manifest) -> Iterator[str]:
    """Yield a line for each reason for which the held-out loss of a corpus would say little."""
    train, val = manifest.splits["train"], manifest.splits["val"]
    more = "give more files with --val" if manifest.val_sources else "give your own files with --val"
    sets = {f"set {name} of held-out files": split_of_set(name) for name in manifest.val_sets}
    for what, split in {"held-out split": "val", **sets}.items():
        info = manifest.splits[split]
        if info.num_documents < FEW_DOCUMENTS:
            remedy = "name more files for it" if what in sets else f"hold out more with --val-fraction, or {more}"
            yield (
                f"the {what} has few documents ({info.num_documents}, with {info.num_tokens:,} tokens), so its loss "
                f"says little about other text: {remedy}"
            )
    share = val.num_tokens / (train.num_tokens + val.num_tokens)
    if share >= LARGE_SHARE:
        yield (
            f"{share:.0%} of the tokens are held out, and {train.num_tokens:,} are left to train on: prepare more "
            "documents, since none is in two splits"
        )
