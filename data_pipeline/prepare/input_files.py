"""The files that `prepare` reads, found in the inputs that the user names."""

import os
import re
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from foretrain.data_pipeline.corpus.manifest import MANIFEST, TOKENIZER
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.formats import endings, format_of

SKIPPED_FOLDERS = {"site-packages", "dist-packages", "__pycache__"}
"""Never entered below an input folder: installed packages are not part of the source code around them."""

UNFINISHED = re.compile(r"\..+\.(partial|old)-[0-9a-f]{8}")
"""Names of the hidden folders of an unfinished corpus (see `output_folder`)."""

StrPath = str | os.PathLike[str]


def standard_library() -> Path:
    """Return the folder of the running Python's own source: tens of MB of text on every machine, without a download."""
    return Path(sysconfig.get_paths()["stdlib"])


def find_files(inputs: Sequence[StrPath], *, follow_links: bool = False) -> list[Path]:
    """Return the files of the inputs: inputs in the given order, the files of a folder by path, and none twice.

    A corpus below a folder is left out, because it may be the output of an earlier run. Raises CorpusError for an input
    that does not exist, is a corpus, is a file of an unknown kind, or is a folder without a file; and for a folder in
    which a link leads out of it, unless `follow_links`. Links inside a folder, and inputs that are links, are followed.
    """
    if not inputs:
        raise CorpusError("no input was given: name files or folders of text")
    files: dict[Path, Path] = {}
    for each in inputs:
        for file in _files_of(Path(each), follow_links):
            files.setdefault(file.resolve(), file)
    return list(files.values())


def _files_of(path: Path, follow_links: bool) -> list[Path]:
    known = endings()
    if path.is_dir():
        if _is_corpus(path):
            raise CorpusError(f"{path} is a corpus of tokens already: train on it, or give the text it was made of")
        files = _walk(path)
        if not files:
            raise CorpusError(f"{path} holds no file that can be read: names must end in one of {known}")
        if not follow_links and path.resolve() != standard_library().resolve():
            _refuse_links_out(path, files)
        return [_with_its_name(file) for file in files]
    if not path.exists():
        raise CorpusError(f"{path} does not exist: give files or folders of text ({known})")
    form = format_of(path.name)
    if form is None:
        raise CorpusError(f"{path} is of an unknown kind: its name must end in one of {known}")
    return [_with_its_name(file) for file in form.files_of(path)]


def _with_its_name(file: Path) -> Path:
    """The absolute path, without links to folders. The name stays, also that of a link: its ending says the format."""
    return file.parent.resolve() / file.name


def _walk(folder: Path) -> list[Path]:
    """Follow links to folders, but enter each real folder once, so that a loop of links ends."""
    files, seen = [], {os.path.realpath(folder)}
    for parent, subfolders, names in os.walk(folder, followlinks=True):
        entered = []
        for name in sorted(subfolders):
            real = os.path.realpath(Path(parent, name))
            if name not in SKIPPED_FOLDERS and real not in seen and not _is_corpus(Path(parent, name)):
                seen.add(real)
                entered.append(name)
        subfolders[:] = entered
        found = [(Path(parent, name), format_of(name)) for name in names]
        files += [file for file, form in found if form is not None and form.is_input(file)]
    for file in files:
        if not file.is_file():
            raise CorpusError(f"{file} is not a file that can be read (a broken link?): repair or remove it")
    return [file for file in sorted(files) if not _is_test_data(file.resolve())]


def _refuse_links_out(folder: Path, files: Sequence[Path]) -> None:
    """Raise CorpusError if a link leads out of a folder, which others may have written, to a file of the user's."""
    root = folder.resolve()
    for file in files:
        if not file.resolve().is_relative_to(root):
            raise CorpusError(
                f"{file} leads out of {folder}, by a link to {file.resolve()}: leave it out, or give --follow-links if "
                "you know all links in that folder"
            )


def _is_corpus(folder: Path) -> bool:
    if UNFINISHED.fullmatch(folder.name):
        return True
    return all((folder / name).is_file() for name in (MANIFEST, TOKENIZER))


def _is_test_data(file: Path) -> bool:
    """Python's own library has archives for the tests of its tar reader, some of which are damaged on purpose."""
    return ".tar" in file.suffixes and file.is_relative_to(standard_library().resolve() / "test")
