"""The formats of input files: each is a file of this package and a line in `FORMATS`."""

from foretrain.data_pipeline.prepare.formats.arrow import Arrow
from foretrain.data_pipeline.prepare.formats.base import Format
from foretrain.data_pipeline.prepare.formats.csv_rows import CsvRows
from foretrain.data_pipeline.prepare.formats.json_lines import JsonLines
from foretrain.data_pipeline.prepare.formats.megatron import Megatron
from foretrain.data_pipeline.prepare.formats.npy import Npy
from foretrain.data_pipeline.prepare.formats.parquet import Parquet
from foretrain.data_pipeline.prepare.formats.plain_text import PlainText
from foretrain.data_pipeline.prepare.formats.tar import Tar
from foretrain.data_pipeline.prepare.unpack import COMPRESSIONS, without_compression

FORMATS: tuple[Format, ...] = (
    PlainText(),
    JsonLines(),
    Tar(),
    CsvRows(),
    Parquet(),
    Arrow(),
    Npy(),
    Megatron(),
)


def endings() -> str:
    """Every ending of a name that a format knows, for messages."""
    compressed = [ending for each in FORMATS for ending in each.endings if each.may_be_compressed]
    others = [ending for each in FORMATS for ending in each.endings if not each.may_be_compressed]
    return f"{', '.join(others)}, {', '.join(compressed)}, the last {len(compressed)} also with .gz or .zst"


def format_of(file_name: str) -> Format | None:
    """The format of a file by the end of its name, or None if no format knows it."""
    plain = without_compression(file_name)
    form = _BY_ENDING.get(f".{plain.rpartition('.')[2]}") if "." in plain else None
    packed = file_name.removeprefix(plain)
    is_known = packed in COMPRESSIONS and form is not None and (form.may_be_compressed or not packed)
    return form if is_known else None


_BY_ENDING = {ending: each for each in FORMATS for ending in each.endings}
