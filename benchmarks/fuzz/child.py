"""A process that fuzzes one parser: python -m benchmarks.fuzz.child NAME FOLDER [options of libFuzzer].

It ends at the first finding, as libFuzzer does, with a status that is not 0.
"""

import sys
from pathlib import Path

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]  # it is installed for this benchmark alone

GUIDED_BY = ["foretrain", "tarfile", "yaml", "http", "email", "csv"]
"""Packages whose branches guide the fuzzer. Those in C, such as the parser of JSON, are not seen."""
MORE_BYTES = 2 << 30
"""Memory that one input may cost. The largest document and the largest vocabulary take less."""

with atheris.instrument_imports(include=GUIDED_BY):
    from benchmarks.fuzz.targets import TARGETS, check, limit_memory


def main(name: str, folder: str, *options: str) -> None:
    """Fuzz the parser of this name until libFuzzer's options end it."""
    target = next(each for each in TARGETS if each.name == name)
    parse = target.open(Path(folder))
    limit_memory(MORE_BYTES)
    atheris.Setup([sys.argv[0], *options], lambda data: check(target, parse, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
