"""The part of the accelerators' peak that training uses: MFU and HFU. Pure arithmetic.

With F the FLOPs of training on a token as `trainer/model/size.py` defines them, T tokens a second over all
accelerators, N accelerators and P the peak of one (`cluster.gpu_peak_tflops`):

    MFU = F T / (N P)          model FLOPs utilization (arXiv 2204.02311, appendix B)
    HFU = (F + R) T / (N P)    hardware FLOPs utilization: R are the FLOPs that recomputation adds for a token,
                               of blocks and of logits in parts

F counts all of attention's matrix of scores, as is usual, although causal kernels compute about half of it.
"""

from dataclasses import dataclass

from foretrain.configs.schema import Config
from foretrain.parallel.layout import Layout
from foretrain.trainer.model.logits import recomputed_head_flops
from foretrain.trainer.model.table import block_flops, flops_per_token, recomputed_flops
from foretrain.trainer.objectives.base import objective_of

PEAK_TFLOPS = {
    "H200": 989.0,
    "GH200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "B200": 2250.0,
    "L40S": 362.0,
    "A10G": 70.0,
    "A10": 125.0,
}
"""Dense bf16 peaks of NVIDIA's datasheets, TFLOP/s; the first name that is a part of the GPU's name counts."""


def peak_tflops(gpu: str) -> float | None:
    """The dense bf16 peak of a GPU by its name, in any case, TFLOP/s; None if it is not known."""
    return next((peak for name, peak in PEAK_TFLOPS.items() if name.lower() in gpu.lower()), None)


@dataclass(frozen=True)
class Utilization:
    """Shares of the peak, from 0 to 1."""

    mfu: float
    hfu: float


def utilization(config: Config, num_accelerators: int, step_s: float) -> Utilization:
    """The utilization of a step of `step_s` seconds."""
    tokens_per_s = config.train.global_batch_size * config.model.seq_len / step_s
    peak_flops = num_accelerators * config.cluster.gpu_peak_tflops * 1e12
    model_flops = flops_per_token(config.model)
    again = recomputed_flops(block_flops(config.model), config.train, config.model.num_layers)
    if not objective_of(config).has_own_loss():
        again += recomputed_head_flops(config.model, config.train, Layout.from_config(config.parallel))
    return Utilization(
        mfu=model_flops * tokens_per_s / peak_flops,
        hfu=(model_flops + again) * tokens_per_s / peak_flops,
    )
