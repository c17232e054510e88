"""Text that others have written reaches terminals and logs without control characters, whatever shows it."""

import io
import json
import os
import pty
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from foretrain.configs.load import ConfigError, load
from foretrain.data_pipeline.corpus.manifest import Manifest
from foretrain.data_pipeline.corpus.remote.transport import FetchError
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.documents import DocumentReader
from foretrain.launcher.local.outcome import Outcome, Raised
from foretrain.launcher.local.report import print_failure
from foretrain.launcher.logs import log_path
from foretrain.printable import for_stream
from foretrain.trainer.checkpoint.remote.requests import RemoteError
from foretrain.trainer.sinks.terminal import TerminalSink
from tests.cli import called
from tests.data_pipeline.corpus.http_server import Fault, serving

ATTACK = "\x1b]0;title\x07\x1b[2J\u202e"
"""Sets the title of a terminal, clears it, and turns the order of what follows."""
ESCAPED = r"\x1b]0;title\x07\x1b[2J\u202e"


def assert_escaped(text: str) -> None:
    assert ESCAPED in text
    assert [char for char in text if not char.isprintable() and char not in "\n\t"] == []


def tar_of(path: Path, name: str, **pax: str) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.pax_headers = pax
        tar.addfile(info, io.BytesIO(b""))
    return path


@pytest.mark.parametrize("name", [f"a{ATTACK}.exe", f"{ATTACK}-without-extension"])
def test_names_in_a_tar_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError) as found:
        list(DocumentReader([tar_of(tmp_path / "a.tar", name)]))
    assert_escaped(str(found.value))


def test_a_name_in_a_tar_file_cannot_add_a_line_to_a_log(tmp_path: Path) -> None:
    with pytest.raises(CorpusError) as found:
        list(DocumentReader([tar_of(tmp_path / "a.tar", "a\nerror: all is lost.exe")]))
    assert "\n" not in str(found.value)


def test_the_reason_of_a_server(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        server.always["manifest.json"] = Fault(status=404, reason=f"{ATTACK}".encode().decode("latin-1"))
        ended = called("data", "verify", server.url, cwd=tmp_path)
    assert "\x1b" not in ended.err + ended.out
    assert r"answers 404 \x1b]0;title\x07\x1b[2J" in ended.err


def test_the_version_of_a_manifest() -> None:
    with pytest.raises(CorpusError) as found:
        Manifest.parse(json.dumps({"version": ATTACK}).encode(), "manifest.json")
    assert_escaped(str(found.value))


def test_keys_and_values_of_a_config(tmp_path: Path) -> None:
    for text in (f'"{ESCAPED}": 1', f'train: {{num_tokens: "{ESCAPED}"}}'):  # YAML reads these escapes
        (tmp_path / "theirs.yaml").write_text(text)
        with pytest.raises(ConfigError) as found:
            load(tmp_path / "theirs.yaml")
        assert_escaped(str(found.value))


@pytest.mark.parametrize("is_user_error", [True, False])
def test_the_failure_of_a_rank_and_its_log(
    is_user_error: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raised = Raised("ValueError", ATTACK, f"Traceback: {ATTACK}\n", 0.0, is_user_error, is_communication=False)
    outcome = Outcome(1, raised, 1, 0.0)
    print_failure(outcome, [outcome], tmp_path)
    assert_escaped(capsys.readouterr().err)
    assert_escaped(log_path(tmp_path, 1).read_text())


def test_messages_of_a_run() -> None:
    shown = io.StringIO()
    TerminalSink(Console(file=shown)).message(f"step 3: a sample was replaced: {ATTACK}")
    assert_escaped(shown.getvalue())


def test_a_password_in_a_url_is_in_no_message() -> None:
    for shown in (
        str(CorpusError("pipe:curl https://me:hush@host/{} ended with status 22")),
        str(FetchError("https://me:hush@host/manifest.json answers 404")),
        str(RemoteError("ssh://me:hush@host/run", "no answer")),
        str(ConfigError("override 'data.path=ftp://me:hush@host'")),
    ):
        assert "://me:***@host" in shown and "hush" not in shown


@pytest.fixture
def terminal() -> Iterator[io.TextIOWrapper]:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as stream:
        yield stream
    os.close(ours)


def test_generated_text_on_a_terminal_but_not_in_a_file(terminal: io.TextIOWrapper) -> None:
    assert_escaped(for_stream(f"7 plus {ATTACK}", terminal))
    assert for_stream(f"7 plus {ATTACK}", io.StringIO()) == f"7 plus {ATTACK}"
