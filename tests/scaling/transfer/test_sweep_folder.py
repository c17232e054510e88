"""All of a sweep is read, whatever the order of its lines; any other folder is refused with what to do."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.configs.load import load
from foretrain.scaling.records import RESULTS_FILE, SWEEP_FILE
from foretrain.scaling.transfer.study import study
from foretrain.scaling.transfer.sweep_folder import CONFIG_FILE, Size, read_sweep
from tests.scaling.transfer.builder import Folder, target


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Folder(axes={"model.init_std": [0.01, 0.02]}).write(tmp_path_factory.mktemp("written") / "sweep")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Folder().write(tmp_path / "sweep")


@settings(max_examples=15, deadline=None)
@given(shuffle=st.randoms(use_true_random=False))
def test_the_order_of_lines_changes_nothing(shuffle: random.Random, written: Path) -> None:
    results = written / RESULTS_FILE
    before = read_sweep(written)
    lines = results.read_text().splitlines(keepends=True)
    shuffle.shuffle(lines)
    results.write_text("".join(lines))
    assert read_sweep(written) == before


def test_all_of_a_sweep_is_read(written: Path) -> None:
    sweep = read_sweep(written)
    assert sweep.sizes == (Size(64, 4), Size(128, 4), Size(256, 4))
    assert len(sweep.trials) == 3 * 2 * 7 * 2 and len(sweep.grid) == 7 * 2
    assert {trial.others["model.init_std"] for trial in sweep.trials} == {0.01, 0.02}
    assert sweep.name == "sweep sweep (5eed5eed5eed5eed; code 0123abc)"


def test_a_constant_on_all_losses_changes_the_losses_alone(tmp_path: Path) -> None:
    plain, higher = Folder(), Folder(edit=lambda record: {**record, "loss": record["loss"] + 3.25})
    config = load(target(tmp_path / "target.yaml"))
    one, other = (study(read_sweep(made.write(tmp_path / "sweep")), config) for made in (plain, higher))
    assert one.values == other.values
    for before, after in zip(one.fits, other.fits, strict=True):
        assert before.optimum is not None and after.optimum is not None
        assert after.optimum.log2_lr == pytest.approx(before.optimum.log2_lr, abs=1e-9)
        assert after.optimum.loss == pytest.approx(before.optimum.loss + 3.25, abs=1e-9)
    assert one.drifts[0].regret == pytest.approx(other.drifts[0].regret, abs=1e-9)


def test_a_truncated_last_line_is_left_out(folder: Path) -> None:
    full = read_sweep(folder)
    results = folder / RESULTS_FILE
    results.write_bytes(results.read_bytes()[:-20])
    assert len(read_sweep(folder).trials) == len(full.trials) - 1


def test_a_line_that_occurs_twice_counts_once(folder: Path) -> None:
    full = read_sweep(folder)
    results = folder / RESULTS_FILE
    results.write_text(results.read_text() + results.read_text())
    assert read_sweep(folder) == full


def lines(change: Callable[[list[str]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        found = (folder / RESULTS_FILE).read_text().splitlines()
        change(found)
        (folder / RESULTS_FILE).write_text("".join(f"{line}\n" for line in found))

    return edit


def fields(**values: object) -> Callable[[Path], None]:
    """The third line, with other values."""
    return lines(lambda found: found.__setitem__(2, json.dumps({**json.loads(found[2]), **values})))


def plan(**values: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        asked = json.loads((folder / SWEEP_FILE).read_text())
        (folder / SWEEP_FILE).write_text(json.dumps({**asked, **values}))

    return edit


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda folder: (folder / SWEEP_FILE).unlink(),
            "has no sweep.json: give the --out folder of a `foretrain sweep`",
        ),
        (lambda folder: (folder / CONFIG_FILE).unlink(), "has no config.yaml"),
        (lambda folder: (folder / RESULTS_FILE).unlink(), "has no results.jsonl"),
        (lambda folder: (folder / RESULTS_FILE).write_text(""), "has no trial that finished its budget"),
        (lambda folder: (folder / SWEEP_FILE).write_text("{"), "sweep.json is not what `foretrain sweep` writes"),
        (lambda folder: (folder / SWEEP_FILE).write_text("[]"), "sweep.json is not what `foretrain sweep` writes"),
        (plan(axes={"model.init_std": [0.1]}), "did not sweep optimizer.lr, which is what transfer fits"),
        (lines(lambda found: found.insert(1, '{"torn')), r"results.jsonl:2 is not JSON: delete the line"),
        (lines(lambda found: found.insert(1, "[]")), r"results.jsonl:2 is not the result of a trial"),
        (lines(lambda found: found.insert(1, "{}")), r"results.jsonl:2 is not the result of a trial"),
        (fields(values={}), r"results.jsonl:3 is not the result of a trial"),
        (fields(status="lost"), r"results.jsonl:3 is not the result of a trial .*lost"),
        (fields(loss=None), r"results.jsonl:3 is not the result of a trial"),
        (fields(loss=float("nan")), r"results.jsonl:3 is not the result .*its loss is not a number"),
        (lines(lambda found: found.append(found[0].replace('"loss": ', '"loss": 1'))), "contradicts an earlier line"),
        (
            lines(lambda found: found.append(found[0].replace('"trial": "', '"trial": "0'))),
            "contradicts an earlier line",
        ),
    ],
)
def test_a_folder_that_is_not_a_sweep_is_refused_with_what_to_do(
    spoil: Callable[[Path], None], says: str, folder: Path
) -> None:
    spoil(folder)
    with pytest.raises(ValueError, match=says):
        read_sweep(folder)


def test_a_sweep_in_which_all_diverged_is_refused(tmp_path: Path) -> None:
    folder = Folder(loss=lambda *_: float("inf")).write(tmp_path / "sweep")
    with pytest.raises(ValueError, match=r"no trial that finished .* with smaller learning rates"):
        read_sweep(folder)


def test_a_sweep_without_a_finished_trial_as_deep_as_the_target_is_refused(tmp_path: Path) -> None:
    made = replace(Folder(depths=(2, 4)), edit=lambda record: record if record["num_layers"] == 2 else None)
    sweep = read_sweep(made.write(tmp_path / "sweep"))
    with pytest.raises(ValueError, match="no finished trial with num_layers = 4, as deep as the target"):
        study(sweep, load(target(tmp_path / "target.yaml")))
