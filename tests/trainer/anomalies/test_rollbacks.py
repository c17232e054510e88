"""The file of rollbacks, which may be that of a run of others: `foretrain data peek RUN` shows it."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from foretrain import limits
from foretrain.trainer.anomalies.rollbacks import ROLLBACKS_FILE, Rollback, read_rollbacks, write_rollbacks

SOUND = Rollback(5, 4, 16, 20, "loss nan")


def test_rollbacks_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert read_rollbacks(tmp_path) == []
    write_rollbacks(tmp_path, [SOUND, SOUND])
    assert read_rollbacks(tmp_path) == [SOUND, SOUND]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "Expecting value"),
        (b"{}", "it is a dict"),
        (b"[3]", "one of them is a int"),
        (b"[" * 200_000, "recursion"),
        (b'["\xe9"]', "can't decode byte 0xe9"),
        (json.dumps([asdict(SOUND) | {"first_sample": "a"}]).encode(), "its first_sample is 'a'"),
        (json.dumps([asdict(SOUND) | {"step": True}]).encode(), "its step is True"),
        (json.dumps([asdict(SOUND) | {"end_sample": 16}]).encode(), "numbers of one of them cannot be"),
        (json.dumps([asdict(SOUND) | {"first_sample": -1}]).encode(), "numbers of one of them cannot be"),
        (json.dumps([asdict(SOUND) | {"end_sample": 10**30}]).encode(), "numbers of one of them cannot be"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / ROLLBACKS_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=f"rollbacks.json is not a list of rollbacks .*{words}"):
        read_rollbacks(tmp_path)


def test_a_file_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rollbacks(tmp_path, [SOUND])
    monkeypatch.setattr(limits, "ROLLBACKS_BYTES", 20)
    with pytest.raises(ValueError, match=f"{ROLLBACKS_FILE} has more than 20 bytes.*: repair it"):
        read_rollbacks(tmp_path)


def test_a_reason_controls_no_terminal() -> None:
    assert r"\x1b[31mred" in str(Rollback(5, 4, 16, 20, "\x1b[31mred"))
