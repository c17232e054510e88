"""A process that imports model folders and prints the memory that each took, beyond what it had before, in bytes.

`python -m tests.trainer.interop.importing.memory OUT FOLDER ...`: the first folder imports everything and warms up
allocators, and is not measured. The second one is imported again at the end, by an import that keeps all that it has
read.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from foretrain.trainer.interop.importing import values
from foretrain.trainer.interop.importing.run import import_model
from tests.trainer.interop.memory import peak_bytes


def hoarding(
    of: Callable[[values.Values, values.Portion], Tensor],
) -> Callable[[values.Values, values.Portion], Tensor]:
    """The function with a planted bug: no part of a tensor is given back."""
    kept = []

    def keep(self: values.Values, portion: values.Portion) -> Tensor:
        kept.append(of(self, portion))
        return kept[-1]

    return keep


def measured(folder: Path, out: Path) -> int:
    """Bytes that an import took."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    before = peak_bytes("VmRSS")
    import_model(folder, out)
    return peak_bytes("VmHWM") - before


def main(out: Path, small: Path, *folders: Path) -> None:
    """Import the folders, one after the other."""
    import_model(small, out / "small")
    for number, folder in enumerate(folders):
        print(measured(folder, out / str(number)))
    values.Values.of = hoarding(values.Values.of)  # type: ignore[method-assign,assignment]
    print(measured(folders[0], out / "hoarded"))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
