"""Made-up programs and stories, in which lines and sentences end with words that were there before."""

from pathlib import Path
from typing import Any

import numpy as np

from foretrain.data_pipeline.prepare.build import prepare
from foretrain.trainer.tasks.words import WORDS


def program(number: int, length: int = 40) -> str:
    """Lines that give names the values of other names, and some that do not end with a name."""
    random = np.random.default_rng(number)
    names = random.choice(WORDS, 12, replace=False).tolist()
    lines = [f"def {names[0]}_{number}({names[1]}):"]
    for _ in range(length):
        one, other = random.choice(names, 2, replace=False).tolist()
        lines += [f"    {one} = {other}", f"    if {one} is not {other}:", "        pass"][: int(random.integers(1, 4))]
    return "\n".join(lines) + "\n"


def story(number: int) -> str:
    """Sentences on one line."""
    random = np.random.default_rng(number)
    names = random.choice(WORDS, 12, replace=False).tolist()
    pairs = [random.choice(names, 2, replace=False).tolist() for _ in range(60)]
    return " ".join(f"The {one} is near the {other}{'.!?'[place % 3]}" for place, (one, other) in enumerate(pairs))


def write_programs(folder: Path, vocab_size: int = 300, **settings: Any) -> Path:
    """A corpus with programs to train on, and 24 others that are held out; settings as in PrepareSettings."""
    for name, numbers in (("train", range(100, 140)), ("val", range(24))):
        (folder / name).mkdir(parents=True)
        for number in numbers:
            (folder / name / f"{number:03}.py").write_text(program(number))
    prepare([folder / "train"], folder / "corpus", val_inputs=[folder / "val"], vocab_size=vocab_size, **settings)
    return folder / "corpus"
