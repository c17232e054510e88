"""Text and settings for small corpora."""

import random
from pathlib import Path
from typing import Any

SMALL: dict[str, Any] = {"vocab_size": 300, "block_bytes": 2048, "shard_tokens": 4000, "val_fraction": 0.1}
"""Settings under which a few kilobytes of text fill several shards of several members."""


def write_texts(folder: Path, num_documents: int = 60, seed: int = 0) -> Path:
    """Fill a folder with documents of 1 to 400 words, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    words = ["loss", "curve", "gradient", "shard", "rank", "naïve", "模型", "norm", "\n", "  ", "0.1", "(x)"]
    for number in range(num_documents):
        text = " ".join(draw.choices(words, k=draw.randint(1, 400)))
        (folder / f"{number:03d}.txt").write_text(text, encoding="utf-8")
    return folder
