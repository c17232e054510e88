"""`foretrain transfer`: what it prints, writes and exits with."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from foretrain.configs.load import diff, load
from foretrain.scaling.transfer.plot import PLOT_FILE, plot
from foretrain.scaling.transfer.report import print_study
from foretrain.scaling.transfer.transfer import NOT_SUPPORTED, make_transfer, write
from foretrain.trainer.run.exit_status import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED
from tests.cli import assert_refused, called
from tests.scaling.transfer.builder import Folder, target, transferred

PURE = ["transfer", "report", "study", "evidence", "coordinates", "optimum", "sweep_folder"]
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
WRITTEN = "target.transferred.yaml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good sweep, and a target that it supports."""
    Folder().write(tmp_path / "sweep")
    target(tmp_path / "target.yaml")
    return tmp_path


@pytest.fixture
def doubtful(tmp_path: Path) -> Path:
    """A sweep without a coordinate check."""
    Folder(check=None).write(tmp_path / "sweep")
    target(tmp_path / "target.yaml")
    return tmp_path


def test_good_evidence_writes_the_full_target_with_the_rate_and_the_evidence(folder: Path) -> None:
    ended = called("transfer", "sweep", "--to", "target.yaml", cwd=folder)
    assert ended.status == EXIT_DONE and ended.err == ""
    for words in ("d_model", "-5.20", "d_model 64 to 256", "7 rates, 2 seeds", f"{WRITTEN}: optimizer.lr = 0.02"):
        assert words in ended.out
    assert (folder / "sweep" / PLOT_FILE).read_bytes().startswith(PNG_SIGNATURE)

    found, before = load(folder / WRITTEN), load(folder / "target.yaml")
    assert found.optimizer.lr == pytest.approx(2**-5.2, rel=0.01)
    assert {line.partition(":")[0] for line in diff(before, found)} == {"optimizer.lr", "mup.evidence"}
    text = (folder / WRITTEN).read_text()
    assert set(yaml.safe_load(text)) == {*vars(found)}, "all sections are there"
    of_rate, check, *_ = found.mup.evidence
    for words in (
        f"optimizer.lr = {found.optimizer.lr}",
        "d_model = 256, num_layers = 4",
        "log2 = -5.2",
        "+-",
        "drift",
    ):
        assert words in of_rate
    for words in ("5eed5eed5eed5eed", "code 0123abc", "from the spread of the seeds", "range", "regret"):
        assert words in of_rate
    assert check.startswith("coordinate check: passed, steepest slope 0.12")
    head = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")]
    assert head == ["Written by `foretrain transfer`: a full config, with values that were tuned on small proxies.",
                    *found.mup.evidence]  # fmt: skip


def test_the_written_config_can_be_overridden_and_be_a_target_again(folder: Path) -> None:
    called("transfer", "sweep", "--to", "target.yaml", cwd=folder)
    first = load(folder / WRITTEN)
    assert load(folder / WRITTEN, ["train.seed=3"]).mup.evidence == first.mup.evidence
    again = called("transfer", "sweep", "--to", WRITTEN, "--out", "again.yaml", cwd=folder)
    assert again.status == EXIT_DONE
    assert load(folder / "again.yaml") == first


def test_words_with_a_meaning_in_yaml_are_read_as_they_were_written(tmp_path: Path) -> None:
    made = transferred(tmp_path)
    evidence = ["${model.name} # no comment", "two\nlines: [1, 2", "'\"\\${x} ± é", "- null"]
    odd = replace(made, config=replace(made.config, mup=replace(made.config.mup, evidence=evidence)))
    write(odd, tmp_path / "odd.yaml")
    assert load(tmp_path / "odd.yaml") == odd.config


def test_all_objections_are_reported_and_no_config_is_written(doubtful: Path) -> None:
    ended = called("transfer", "sweep", "--to", "target.yaml", "optimizer.beta2=0.99", cwd=doubtful)
    assert ended.status == EXIT_FAILED
    assert not (doubtful / WRITTEN).exists()
    assert "-5.20" in ended.out, "the table is shown nevertheless"
    assert (doubtful / "sweep" / PLOT_FILE).exists()
    for words in ("not supported:", "- there is no coordinate check", "- the sweep had another setting"):
        assert words in ended.err
    assert "foretrain coord-check CONFIG --out sweep" in ended.err


def test_force_writes_the_config_with_every_objection_in_it(doubtful: Path) -> None:
    ended = called("transfer", "sweep", "--to", "target.yaml", "optimizer.beta2=0.99", "--force", cwd=doubtful)
    assert ended.status == EXIT_DONE and "no coordinate check" in ended.err
    found = load(doubtful / WRITTEN)
    doubts = [line for line in found.mup.evidence if line.startswith(NOT_SUPPORTED)]
    assert len(doubts) == 2 and found.optimizer.beta2 == 0.99
    text = (doubtful / WRITTEN).read_text()
    assert "# NOT SUPPORTED by the evidence" in text
    assert all(f"# {doubt}\n" in text for doubt in doubts)


def test_a_rate_that_cannot_be_fitted_is_forced_as_the_best_of_the_grid(tmp_path: Path) -> None:
    made = transferred(tmp_path, Folder(exponents=(-9, -8, -7)))
    assert made.config.optimizer.lr == 2**-7
    assert "the best rate of the grid" in made.config.mup.evidence[0]
    assert len(made.objections) == 3 and all("is the largest" in objection for objection in made.objections)


def test_a_file_that_exists_is_replaced_only_with_overwrite(folder: Path) -> None:
    (folder / WRITTEN).write_text("mine")
    ended = called("transfer", "sweep", "--to", "target.yaml", cwd=folder)
    assert ended.status == EXIT_BAD_INPUT
    assert f"{WRITTEN} exists" in ended.err and "--overwrite" in ended.err
    assert (folder / WRITTEN).read_text() == "mine"
    assert called("transfer", "sweep", "--to", "target.yaml", "--overwrite", cwd=folder).status == EXIT_DONE
    assert load(folder / WRITTEN).mup.evidence


def test_a_preset_may_be_the_target_and_the_coordinate_check_may_lie_elsewhere(folder: Path) -> None:
    (folder / "sweep/coord_check.json").rename(folder / "check.json")
    arguments = ["transfer", "sweep", "--to", "runs/dry_run", "--coord-check", "check.json", "--force"]
    ended = called(*arguments, cwd=folder)
    assert ended.status == EXIT_DONE and "there is no coordinate check" not in ended.err
    assert load(folder / "dry_run.transferred.yaml").optimizer.lr == pytest.approx(2**-5.2, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere", "--to", "target.yaml"], ("nowhere has no sweep.json", "`foretrain sweep`")),
        (["sweep", "--to", "nowhere.yaml"], ("no config file 'nowhere.yaml'",)),
        (["sweep", "--to", "target.yaml", "optimizer.lrr=1"], ("did you mean optimizer.lr?",)),
        (
            ["sweep", "--to", "target.yaml", "--coord-check", "target.yaml"],
            ("target.yaml is not what `foretrain coord-",),
        ),
    ],
)
def test_bad_input_is_reported_and_leaves_no_file(arguments: list[str], says: tuple[str, ...], folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    assert_refused(called("transfer", *arguments, cwd=folder), *says)
    assert sorted(folder.rglob("*")) == before


def test_a_file_that_cannot_be_written_is_an_error(folder: Path) -> None:
    ended = called("transfer", "sweep", "--to", "target.yaml", "--out", "nowhere/x.yaml", cwd=folder)
    assert ended.status == EXIT_BAD_INPUT and "nowhere/x.yaml" in ended.err


@pytest.mark.parametrize(
    "made",
    [
        Folder(widths=(128,), depths=(2, 4, 8)),
        Folder(widths=(64, 128), depths=(2, 4), seeds=(0,)),
        Folder(loss=lambda width, depth, x, seed, others: float("inf") if width == 64 else 3 + x),
        Folder(edit=lambda record: None if record["d_model"] == 128 else record),
    ],
    ids=["depths", "widths and depths", "nothing to fit", "a width without results"],
)
def test_every_study_has_a_table_and_a_picture(made: Folder, tmp_path: Path) -> None:
    study = transferred(tmp_path, made).study
    with (tmp_path / "table.txt").open("w") as file:
        print_study(study, Console(file=file, width=120))
    assert all(str(fit.size.d_model) in (tmp_path / "table.txt").read_text() for fit in study.fits)
    plot(study, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(PNG_SIGNATURE)


def test_a_transfer_needs_no_torch() -> None:
    modules = ", ".join(f"foretrain.scaling.transfer.{name}" for name in PURE)
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_transfer_depends_only_on_its_arguments(folder: Path) -> None:
    made = [make_transfer(folder / "sweep", str(folder / "target.yaml"), ["optimizer.lr=0.5"]) for _ in range(2)]
    plain = make_transfer(folder / "sweep", str(folder / "target.yaml"))
    assert made[0].config == made[1].config == plain.config


def test_the_vocabulary_of_the_target_is_that_of_its_data(tmp_path: Path, corpus: Path) -> None:
    made = transferred(tmp_path, settings=["model.vocab_size=null", f"data.path={corpus}"])
    assert made.config.model.vocab_size == 300
    (objection,) = made.objections
    assert objection.startswith("the target has a vocabulary of 300, the proxies 512")
    (unjudged,) = (line for line in made.config.mup.evidence if line.startswith("not judged: data.path"))
    assert str(corpus) in unjudged


def test_another_precision_is_reported_and_not_judged(tmp_path: Path) -> None:
    made = transferred(tmp_path, settings=["train.precision=bf16"])
    assert made.objections == ()
    assert "not judged: train.precision: fp32 -> bf16" in made.config.mup.evidence


def test_a_target_that_cannot_be_built_from_its_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"mup\.base: .*num_heads = 3\.84"):
        transferred(tmp_path, settings=["model.d_model=200", "model.num_heads=12", "model.head_dim=16"])
