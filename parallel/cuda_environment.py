"""The environment variables that a rank on a GPU needs before CUDA starts. Imports no torch."""

from collections.abc import Mapping

from foretrain.parallel.layout import Layout


def cuda_variables(layout: Layout, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables for a rank of `layout`, without those that `environ` has."""
    # megatron-core overlaps tensor-parallel communication with matrix products by the order of kernel launches, which
    # one hardware queue keeps. Without tensor parallelism, one queue would only delay the communication of ZeRO.
    wanted = {"CUDA_DEVICE_MAX_CONNECTIONS": "1"} if layout.tp > 1 else {}
    return {name: value for name, value in wanted.items() if name not in environ}
