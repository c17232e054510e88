"""Finds words and fragments that an engineer who reads English as a second language would stumble over.

`python -m tests.lint.words [FILE ...]` checks these files, or all tracked ones, and exits with 1 if it finds any.
"""

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
SUFFIXES = (".py", ".md", ".in")
EXCEPT = "tests/lint/"
"""The list itself, and its test."""

INSTEAD = {
    r"told|(?<!\.)tells?": "report, message, say",
    r"speaks?|spoke": "say, or the verb that fits: applies, reports",
    r"mend(s|ed|ing)?": "fix, repair, patch",
    r"kin": "the names of what is meant: RANK, WORLD_SIZE, ...",
    r"anew": "again",
    r"begun": "started",
    r"bears?": "supports",
    r"puts? up with": "accept, tolerate",
    r"likeliest": "most likely",
    r"lies|stands(?! for)": "is",
    r"of a kind": "of one type",
    r"go(es)? on|went on|going on": "continue, resume",
    r"comes? to|came to": "result, reach, total",
    r"(?<!as a )whole(?! (numbers?|words?)\b)": "complete, full, entire, or leave it out",
    r"so many": "that many, or the number",
    r"as good as": "almost",
    r"has a part in": "contributes to",
    r"the like": "the names of what is meant",
}
"""Words, and what to write for them."""

FRAGMENTS = {
    r'("""|# )of (?!course\b)': "a sentence, or a noun phrase that is complete without the name",
    r'("""|# )so (long|much)': "a noun phrase: seconds until ..., bytes that ...",
    r'("""|# )as `': "a sentence: the same as `x`, but ...",
    r"\bdef  ?(begin|leave|settle|opened)\(": "a name that says what happens: exit_for_resume, prepared_run",
}

RULES = [(re.compile(words), instead) for words, instead in (INSTEAD | FRAGMENTS).items()]
ANY_WORD, ANY_FRAGMENT = re.compile(rf"\b(?:{'|'.join(INSTEAD)})\b"), re.compile("|".join(FRAGMENTS))


def findings(text: str) -> Iterator[tuple[int, str, str]]:
    """Each finding in a text: its line, from 1, the words, and what to write instead."""
    plain = text.lower().replace("_", " ")  # so that the words of a name are words
    for match in (*ANY_WORD.finditer(plain), *ANY_FRAGMENT.finditer(plain)):
        instead = next(instead for rule, instead in RULES if rule.match(plain, match.start()))
        yield plain.count("\n", 0, match.start()) + 1, match[0].strip('"# '), instead


def tracked_files() -> list[str]:
    """Every file of the project, relative to its root."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


def is_checked(path: str) -> bool:
    """Whether a file, relative to the root, is prose or code of this project."""
    return path.endswith(SUFFIXES) and not path.startswith(EXCEPT)


def main(paths: Sequence[str], root: Path = ROOT) -> int:
    """Print the findings. Returns the exit status."""
    found = [
        f"{path}:{line}: '{words}' is not plain English here: write {instead}"
        for path in paths or tracked_files()
        if is_checked(path) and (root / path).is_file()
        for line, words, instead in findings((root / path).read_text(encoding="utf-8"))
    ]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
