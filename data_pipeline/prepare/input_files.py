"""The files that `prepare` reads, found in the inputs that the user names."""

import glob
import os
import re
import sysconfig
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from foretrain.data_pipeline.corpus.manifest import MANIFEST, TOKENIZER
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.bad_inputs import all_of
from foretrain.data_pipeline.prepare.formats import endings, format_of

SKIPPED_FOLDERS = {"site-packages", "dist-packages", "__pycache__"}
"""Never entered below an input folder: installed packages are not part of the source code around them."""

UNFINISHED = re.compile(r"\..+\.(partial|old)-[0-9a-f]{8}")
"""Names of the hidden folders of an unfinished corpus (see `output_folder`)."""

StrPath = str | os.PathLike[str]


def standard_library() -> Path:
    """Return the folder of the running Python's own source: tens of MB of text on every machine, without a download."""
    return Path(sysconfig.get_paths()["stdlib"])


@dataclass
class Found:
    """The files of some inputs, and what is in their folders besides."""

    by_input: list[list[Path]]
    """The files of each input, in its order; a file may be in several."""
    bad: list[tuple[Path, CorpusError]] = field(default_factory=list)
    """Files in folders that cannot be opened, with the reason."""
    ignored: Counter[str] = field(default_factory=Counter)
    """Files in folders that no format reads, by the ending of their names."""

    @property
    def files(self) -> list[Path]:
        """Every file once, at the place at which it comes first."""
        files: dict[Path, Path] = {}
        for each in self.by_input:
            for file in each:
                files.setdefault(file.resolve(), file)
        return list(files.values())


def find_files(inputs: Sequence[StrPath], *, follow_links: bool = False) -> list[Path]:
    """Return the files of the inputs, as `search` finds them."""
    return search(inputs, follow_links=follow_links).files


def search(inputs: Sequence[StrPath], *, follow_links: bool = False, skip_bad: bool = False) -> Found:
    """Return the files of the inputs: inputs in the given order, the files of a folder by path, and none twice.

    A corpus below a folder is left out, because it may be the output of an earlier run. Links inside a folder, and
    inputs that are links, are followed. Raises CorpusError for inputs that do not exist, are a corpus, are files of an
    unknown kind, or are folders without a file; and, unless `skip_bad`, for broken links in a folder, and for links
    that lead out of it, unless `follow_links`. One error names all of them.
    """
    if not inputs:
        raise CorpusError("no input was given: name files or folders of text")
    found, errors = Found([]), []
    for each in inputs:
        try:
            found.by_input.append(_files_of(Path(each), follow_links, found))
        except CorpusError as error:
            errors.append(error)
    if not skip_bad:
        errors += [error for _, error in found.bad]
    if errors:
        raise all_of(errors, len(errors))
    return found


def _files_of(path: Path, follow_links: bool, found: Found) -> list[Path]:
    known = endings()
    if path.is_dir():
        if _is_corpus(path):
            raise CorpusError(f"{path} is a corpus of tokens already: train on it, or give the text it was made of")
        num_bad = len(found.bad)
        files = _walk(path, found)
        if not follow_links and path.resolve() != standard_library().resolve():
            files = _without_links_out(path, files, found)
        if not files and len(found.bad) == num_bad:
            raise CorpusError(f"{path} holds no file that can be read: names must end in one of {known}")
        return [_with_its_name(file) for file in files]
    if not path.exists():
        raise CorpusError(f"{path} does not exist: {_hint(path) or f'give files or folders of text ({known})'}")
    form = format_of(path.name)
    if form is None:
        raise CorpusError(f"{path} is of an unknown kind: its name must end in one of {known}")
    return [_with_its_name(file) for file in form.files_of(path)]


def _hint(path: Path) -> str:
    """What the user may have meant by a path that does not exist; empty if that is not known."""
    near = sorted(each.name for each in path.parent.glob(f"{glob.escape(path.name)}.*") if format_of(each.name))
    if near:
        return f"did you mean {path.with_name(near[0])}?"
    name, _, rest = str(path).partition("=")
    if rest and Path(rest).exists():
        return f"only files that are held out have a name (--val {name}={rest}): leave {name}= out"
    return ""


def _with_its_name(file: Path) -> Path:
    """The absolute path, without links to folders. The name stays, also that of a link: its ending says the format."""
    return file.parent.resolve() / file.name


def _walk(folder: Path, found: Found) -> list[Path]:
    """Follow links to folders, but enter each real folder once, so that a loop of links ends."""
    files, seen, is_library = [], {os.path.realpath(folder)}, folder.resolve() == standard_library().resolve()
    for parent, subfolders, names in os.walk(folder, followlinks=True):
        entered = []
        for name in sorted(subfolders):
            real = os.path.realpath(Path(parent, name))
            if name not in SKIPPED_FOLDERS and real not in seen and not _is_corpus(Path(parent, name)):
                seen.add(real)
                entered.append(name)
        subfolders[:] = entered
        for file in (Path(parent, name) for name in names):
            try:
                is_input = _is_input(file)
            except CorpusError as error:
                found.bad.append((file, error))
                continue
            if is_input:
                files.append(file)
            elif not is_library:
                found.ignored[file.suffix or file.name] += 1
    return [file for file in sorted(files) if not _is_test_data(file.resolve())]


def _is_input(file: Path) -> bool:
    """Whether a file in a folder is read. Raises CorpusError if it should be and cannot."""
    form = format_of(file.name)
    if form is None or not form.is_input(file):
        return False
    if not file.is_file():
        raise CorpusError(f"{file} is not a file that can be read (a broken link?): repair or remove it")
    return True


def _without_links_out(folder: Path, files: Sequence[Path], found: Found) -> list[Path]:
    """Leave out links that lead out of a folder, which others may have written, to files of the user's."""
    root, kept = folder.resolve(), []
    for file in files:
        if file.resolve().is_relative_to(root):
            kept.append(file)
            continue
        error = CorpusError(
            f"{file} leads out of {folder}, by a link to {file.resolve()}: leave it out, or give --follow-links if you "
            "know all links in that folder"
        )
        found.bad.append((file, error))
    return kept


def _is_corpus(folder: Path) -> bool:
    if UNFINISHED.fullmatch(folder.name):
        return True
    return all((folder / name).is_file() for name in (MANIFEST, TOKENIZER))


def _is_test_data(file: Path) -> bool:
    """Python's own library has archives for the tests of its tar reader, some of which are damaged on purpose."""
    return ".tar" in file.suffixes and file.is_relative_to(standard_library().resolve() / "test")
