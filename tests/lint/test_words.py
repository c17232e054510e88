"""The check of words finds what it should, and nothing else."""

from pathlib import Path

import pytest

from tests.lint.words import findings, main


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("# The rank is told.", "told"),
        ("def assert_told() -> None:", "told"),
        ("x = 1\n# It goes on.", "goes on"),
        ('    """Of a job."""', "of"),
        ('"""So long it waits."""', "so long"),
        ('"""As `f`, but faster."""', "as `"),
        ("def _settle() -> int:", "def  settle("),
        ("The whole file", "whole"),
    ],
)
def test_words_and_fragments_are_found(text: str, found: str) -> None:
    assert [finding[:2] for finding in findings(text)] == [(text.count("\n") + 1, found)]


@pytest.mark.parametrize("text", ["a whole number", "the loss as a whole", "kind", "skin", '"""Of course it is."""'])
def test_plain_words_are_not_found(text: str) -> None:
    assert list(findings(text)) == []


def test_a_finding_fails_the_check_and_says_what_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planted = tmp_path / "configs" / "planted.md"
    planted.parent.mkdir()
    planted.write_text("It continues.\nIt goes on.\n", encoding="utf-8")
    assert main(["configs/planted.md"], tmp_path) == 1
    assert capsys.readouterr().out == (
        "configs/planted.md:2: 'goes on' is not plain English here: write continue, resume\n"
    )
    planted.write_text("It continues.\n", encoding="utf-8")
    assert main(["configs/planted.md"], tmp_path) == 0
