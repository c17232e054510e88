"""Runs to which no one law can be fitted are refused, with every reason; the law follows from what the runs vary."""

from dataclasses import replace
from pathlib import Path

import pytest

from foretrain.scaling.laws.runs import RunFacts
from foretrain.scaling.prediction.table import differences, read_facts, read_table

RUN = RunFacts(name="runs/a", loss=3.0, num_params=1e6, num_params_without_embeddings=5e5, num_tokens=2e7, flops=1.3e14)


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "runs.csv"
    path.write_text(text)
    return path


def test_a_table_with_n_and_d_that_grow_together_gives_a_law_of_compute(tmp_path: Path) -> None:
    rows = "".join(f"{1e6 * 2**k},{2e7 * 2**k},{3 - 0.1 * k}\n" for k in range(9))
    found = read_table([table(tmp_path, "N,D,loss\n" + rows)])
    assert found.form.name == "compute"
    assert found.compute[0] == pytest.approx(6 * 1e6 * 2e7)


def test_a_table_that_separates_n_from_d_gives_a_law_of_both(tmp_path: Path) -> None:
    rows = "".join(f"{1e6 * 2**k},{2e7 * 2**j},{3 - 0.1 * k - 0.1 * j}\n" for k in range(3) for j in range(3))
    found = read_table([table(tmp_path, "N,D,loss\n" + rows)])
    assert (found.form.name, found.variables.shape) == ("chinchilla", (9, 2))


def test_tokens_follow_from_compute_and_parameters(tmp_path: Path) -> None:
    found = read_table([table(tmp_path, "N,C,loss\n1e6,6e14,3\n2e6,2.4e15,2.8\n4e6,9.6e15,2.6\n")], "chinchilla")
    assert found.variables[:, 1] == pytest.approx([1e8, 2e8, 4e8])


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    rows = "\n1e6,6e14,3\n2e6,2.4e15,2.8\n4e6,9.6e15,2.6\n"
    found = read_table([table(tmp_path, "Model Size,Training FLOP,loss" + rows)])
    assert found.compute == pytest.approx([6e14, 2.4e15, 9.6e15]) and found.runs[0].num_params == 1e6


def test_of_a_grid_of_hyperparameters_the_lowest_loss_of_each_size_can_be_taken(tmp_path: Path) -> None:
    rows = "".join(
        f"{size},{3 - 0.1 * k + 0.05 * lr},{lr}\n" for lr in (2, 0, 1) for k, size in enumerate((1e15, 2e15))
    )
    path = table(tmp_path, "C,loss,lr\n" + rows)
    assert read_table([path], lowest=True).losses == pytest.approx([3.0, 2.9])
    assert len(read_table([path]).runs) == 6


def test_a_table_without_sizes_names_the_row_and_the_column(tmp_path: Path) -> None:
    path = table(tmp_path, "N,loss\n1e6,3\n2e6,2.9\n3e6,2.8\n")
    with pytest.raises(ValueError, match=r"runs\.csv:2 has no C: add the column, or two of N, D and C"):
        _ = read_table([path]).compute


def test_every_bad_row_is_named(tmp_path: Path) -> None:
    path = table(tmp_path, "C,loss\n1e15,3\n2e15,nan\nx,2.9\n")
    with pytest.raises(ValueError, match=r"no law can be fitted.*\n- .*:3: loss = nan is not.*\n- .*:4: C = x is not"):
        read_table([path])


def test_one_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs at least three sizes, and there are 1 runs: add some"):
        read_table([table(tmp_path, "C,loss\n1e15,3\n")])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokenizer_sha256": "b"}, "2 different tokenizers, such as runs/a and runs/b"),
        ({"data_fingerprint": "b"}, "2 different training data"),
        ({"held_out_fingerprint": "b"}, "2 different held-out data"),
        ({"parametrization": "standard"}, "2 different parametrizations"),
        ({"seq_len": 64}, "2 different sequence lengths"),
    ],
)
def test_runs_that_differ_in_what_one_law_needs_are_refused(change: dict[str, object], words: str) -> None:
    known = replace(
        RUN, tokenizer_sha256="a", data_fingerprint="a", held_out_fingerprint="a", parametrization="mup", seq_len=32
    )
    assert differences([known, replace(known, name="runs/b")]) == []
    assert differences([known, RUN]) == []  # what a table does not know differs from nothing
    (found,) = differences([known, replace(known, name="runs/b", **change)])  # type: ignore[arg-type]
    assert words in found


def test_a_mark_at_the_beginning_of_a_table_is_no_part_of_its_first_column(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("C,loss\n1e15,4\n1e16,3.5\n", encoding="utf-8-sig")
    assert [run.flops for run in read_facts([path])[0]] == [1e15, 1e16]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has no rows: it needs a line with the names of the columns"),
        (b"\xff\xfe\x00", "is not a table of text"),
        (b"flops,C,loss\n1e15,2e15,4\n", "has two columns for C: leave one of them out"),
    ],
)
def test_a_file_that_is_no_table_is_refused_by_name(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_bytes(content)
    (problem,) = read_facts([path])[1]
    assert problem.startswith(f"{path} {words}")


def test_copies_of_a_run_are_no_replicates(tmp_path: Path) -> None:
    run = RunFacts(name="a", loss=2.0, flops=1e15, metrics_sha256="x")
    assert differences([run, replace(run, name="b")]) == [
        "b is a copy of a, and would count as a second run: leave it out"
    ]
    path = tmp_path / "runs.csv"
    path.write_text("C,loss\n1e15,4\n")
    assert len(read_facts([path, path])[0]) == 1
