"""A run's data: mixtures and documents on every layout, what is recorded of them, and what is refused on resume."""

import json
import shutil
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from foretrain.configs.data import CacheConfig, DataConfig, SourceConfig, StageConfig
from foretrain.configs.schema import Config, ParallelConfig
from foretrain.data_pipeline.prepare.build import prepare
from foretrain.trainer.metrics import METRICS_FILE, VAL_LOSS_ERROR, read_metrics
from foretrain.trainer.run.folder import CHECKPOINTS, RECORD, newest_checkpoint
from foretrain.trainer.run.rank import train_rank
from foretrain.trainer.run.setup import prepare_run
from tests.conftest import RunOnRanks
from tests.trainer.test_resume import NUM_STEPS, config, curve

TOKENS_PER_STEP = 8 * 32


@pytest.fixture(scope="module")
def words(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second corpus of the same tokenizer."""
    folder = tmp_path_factory.mktemp("words")
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"{number} words and nothing else. " * (1 + number % 7))
    prepare([folder], folder / "corpus", tokenizer_path=corpus / "tokenizer.json", val_fraction=0.1)
    return folder / "corpus"


@pytest.fixture
def mixed(corpus: Path, words: Path) -> DataConfig:
    return DataConfig(
        sources={"sums": SourceConfig(str(corpus), 0.75), "words": SourceConfig(str(words), 0.25)},
        stages={"anneal": StageConfig(4 * TOKENS_PER_STEP, {"words": 1.0})},
        mixture_block=16,
        packing="best_fit",
    )


def train(ranks: RunOnRanks, settings: Config, **options: Any) -> list[dict[str, Any]]:
    run = prepare_run(settings, **options)
    ranks(run.layout.world_size, train_rank, run)
    return read_metrics(run.run_dir / METRICS_FILE)


@pytest.mark.long
def test_a_mixture_of_packed_documents_resumes_in_another_layout_on_the_same_curve(
    tmp_path: Path, corpus: Path, mixed: DataConfig, ranks: RunOnRanks
) -> None:
    full = replace(config(tmp_path / "full", corpus, ParallelConfig()), data=mixed)
    train(ranks, full)
    expected = curve(Path(full.run_dir))
    parts = replace(config(tmp_path / "parts", corpus, ParallelConfig(dp=2), stop_after=3), data=mixed)
    train(ranks, parts)
    rest = replace(config(tmp_path / "parts", corpus, ParallelConfig(pp=2)), data=mixed)
    train(ranks, rest)
    found = curve(Path(rest.run_dir))
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.pop("kind") == theirs["kind"]
        # A standard error comes from differences of losses, which are thousands of times as large.
        assert ours == {
            name: pytest.approx(value, rel=1e-5, abs=1e-6 if name.startswith(VAL_LOSS_ERROR) else None)
            for name, value in theirs.items()
            if name != "kind"
        }

    steps = [record for record in expected if record["kind"] == "train"]
    assert steps[3]["mixture/words"] == pytest.approx(0.25)
    assert steps[-1]["mixture/words"] == pytest.approx((0.25 * 4 + NUM_STEPS - 4) / NUM_STEPS)
    assert steps[-1]["epochs/sums"] > 0 and 0 <= steps[-1]["padding"] < 1
    assert {"val_loss", "val_loss/sums", "val_loss/words"} <= expected[-1].keys()

    record = json.loads((Path(full.run_dir) / CHECKPOINTS / f"step-{NUM_STEPS:08d}" / RECORD).read_text())
    assert record["samples_consumed"] == NUM_STEPS * 8
    assert (record["seed"], record["stage"]) == (0, "anneal")
    checkpoint = newest_checkpoint(tmp_path / "parts")
    assert checkpoint is not None
    resumed = json.loads((checkpoint / RECORD).read_text())
    # What is measured differs between layouts by float noise: held-out losses, and those of the watch for anomalies.
    held_out = [each.pop("val_loss") for each in (resumed, record)]
    assert held_out[0] == pytest.approx(held_out[1], rel=1e-5)
    anomalies = [each.pop("callbacks")["anomalies"] for each in (resumed, record)]
    assert resumed == record, "the state depends on the layout"
    for measured in ("losses", "log_norms"):
        ours, theirs = (each.pop(measured) for each in anomalies)
        assert len(ours) == NUM_STEPS and ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)
    assert anomalies[0] == anomalies[1], "the state depends on the layout"


def test_another_mixture_is_refused_on_resume_unless_it_is_allowed_and_then_it_is_recorded(
    tmp_path: Path, corpus: Path, mixed: DataConfig, ranks: RunOnRanks
) -> None:
    settings = replace(config(tmp_path, corpus, ParallelConfig(), stop_after=1), data=mixed)
    train(ranks, settings)
    lighter = replace(mixed, sources={**mixed.sources, "sums": replace(mixed.sources["sums"], weight=0.5)})
    changed = replace(settings, data=lighter, train=replace(settings.train, stop_after=2))
    with pytest.raises(ValueError, match=r"(?s)data\.sources\.sums\.weight: 0\.75 -> 0\.5.*--allow-data-change"):
        prepare_run(changed)
    with pytest.raises(ValueError, match=r"(?s)optimizer\.lr.*set them back"):
        prepare_run(replace(changed, optimizer=replace(changed.optimizer, lr=1.0)), allow_data_change=True)
    records = train(ranks, changed, allow_data_change=True)
    assert [record for record in records if record["kind"] == "data_changed"] == [
        {"kind": "data_changed", "step": 1, "change": change}
        for change in (
            "data.sources.sums.weight: 0.75 -> 0.5",
            "the order or the mixture of the samples is not that of the checkpoint",
        )
    ]
    assert prepare_run(changed).start_step == 2, "the new mixture is the run's own from then on"


def test_a_corpus_may_move_between_a_checkpoint_and_its_resume(
    tmp_path: Path, corpus: Path, mixed: DataConfig, ranks: RunOnRanks
) -> None:
    settings = replace(config(tmp_path / "run", corpus, ParallelConfig(), stop_after=1), data=mixed)
    train(ranks, settings)
    shutil.copytree(corpus, tmp_path / "elsewhere")
    moved = replace(mixed, sources={**mixed.sources, "sums": SourceConfig(str(tmp_path / "elsewhere"), 0.75)})
    assert prepare_run(replace(settings, data=moved)).start_step == 1


@pytest.mark.long
def test_a_corpus_on_a_server_gives_the_curve_that_it_gives_in_a_folder(
    tmp_path: Path, corpus: Path, mixed: DataConfig, ranks: RunOnRanks
) -> None:
    layout = ParallelConfig(dp=2)
    local = replace(config(tmp_path / "local", corpus, layout), data=DataConfig(str(corpus), packing="documents"))
    train(ranks, local)
    handler = partial(QuietHandler, directory=str(corpus))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        cache = CacheConfig(dir=str(tmp_path / "cache"), timeout_s=20, retries=2)
        data = DataConfig(url, packing="documents", cache=cache)
        train(ranks, replace(local, run_dir=str(tmp_path / "remote"), data=data))
        server.shutdown()
    found = curve(tmp_path / "remote")
    opened = [(record.pop("cache_hits"), record.pop("cache_misses")) for record in found if record["kind"] == "train"]
    for record in found:
        record.pop("padding", None)
    assert found == curve(tmp_path / "local")
    assert sum(hits + misses for hits, misses in opened) >= 2, "no shard was opened through the cache"


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files, and says nothing of it."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


def cut_after_opening(ranks: RunOnRanks, settings: Config, corpus: Path) -> list[dict[str, Any]]:
    """Train on a corpus whose only shard loses its last third between the check at start and the reading."""
    run = prepare_run(settings)
    (shard,) = corpus.glob("train-*.tar")
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size * 2 // 3)
    ranks(run.layout.world_size, train_rank, run)
    return read_metrics(run.run_dir / METRICS_FILE)


def test_unreadable_samples_are_replaced_counted_and_reported_with_their_place(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    shutil.copytree(corpus, tmp_path / "corpus")
    settings = config(tmp_path / "run", tmp_path / "corpus", ParallelConfig(dp=2))
    settings = replace(settings, data=replace(settings.data, max_bad_samples=1000))
    records = cut_after_opening(ranks, settings, tmp_path / "corpus")
    replaced = [record for record in records if record["kind"] == "replaced"]
    steps = [record for record in records if record["kind"] == "train"]
    assert len(steps) == NUM_STEPS
    assert 0 < len(replaced) == steps[-1]["bad_samples"] < NUM_STEPS * 8
    for record in replaced:
        assert (record["g"] // 8) + 1 == record["step"]
        assert record["shard"].startswith("train-") and record["offset_bytes"] > 0


@pytest.mark.parametrize(
    ("max_bad_samples", "complaint"),
    [pytest.param(0, "train-000000.tar", marks=pytest.mark.long), (2, "more than data.max_bad_samples = 2")],
)
def test_more_unreadable_samples_than_max_bad_samples_end_a_run(
    max_bad_samples: int, complaint: str, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    shutil.copytree(corpus, tmp_path / "corpus")
    settings = config(tmp_path / "run", tmp_path / "corpus", ParallelConfig())
    settings = replace(settings, data=replace(settings.data, max_bad_samples=max_bad_samples))
    with pytest.raises(Exception, match=complaint):
        cut_after_opening(ranks, settings, tmp_path / "corpus")
