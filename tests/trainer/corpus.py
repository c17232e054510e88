"""A small corpus, made once for a test session."""

from pathlib import Path

from foretrain.data_pipeline.prepare.build import prepare


def write_corpus(folder: Path) -> Path:
    """A corpus of short documents with something to learn in them."""
    texts = folder / "texts"
    texts.mkdir(parents=True)
    for number in range(60):
        lines = [f"{number} plus {other} is {number + other}, and nothing else.\n" for other in range(30)]
        (texts / f"sums-{number:02}.txt").write_text("".join(lines))
    prepare([texts], folder / "corpus", vocab_size=300, val_fraction=0.1)
    return folder / "corpus"
