"""The model of the benchmark: trained for a few steps, and exported."""

from pathlib import Path

from foretrain.configs.data import DataConfig
from foretrain.configs.schema import Config, ModelConfig, TrainConfig
from foretrain.data_pipeline.prepare.build import prepare
from foretrain.data_pipeline.prepare.input_files import standard_library
from foretrain.launcher.local.run import call_local
from foretrain.trainer.interop.export import export
from foretrain.trainer.run.setup import prepare_run
from foretrain.trainer.text.inference import Model, load_model

VOCAB_SIZE, SEQ_LEN, BATCH_SIZE, NUM_STEPS = 1024, 1024, 4, 8


def make_model(folder: Path) -> tuple[Model, Path]:
    """A trained model, and the folder of the same model for transformers, in `folder`."""
    prepare([standard_library() / "email", standard_library() / "json"], folder / "data", vocab_size=VOCAB_SIZE)
    config = Config(
        run_dir=str(folder / "run"),
        model=ModelConfig(num_layers=6, d_model=256, num_heads=8, d_ff=768, seq_len=SEQ_LEN),
        data=DataConfig(path=str(folder / "data")),
        train=TrainConfig(
            num_tokens=NUM_STEPS * BATCH_SIZE * SEQ_LEN,
            global_batch_size=BATCH_SIZE,
            micro_batch_size=1,
            eval_samples=BATCH_SIZE,
            sinks=[],
        ),
    )
    call_local("foretrain.trainer.run.rank:train_rank", (prepare_run(config),), 1)
    exported = export(folder / "run", folder / "hf").out
    return load_model(folder / "run"), exported
