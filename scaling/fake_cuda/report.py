"""A record of one rank as text. Imports no torch."""

from collections.abc import Iterator

from foretrain.scaling.fake_cuda.record import Phase, RankRecord

GIB = 2**30


def report(record: RankRecord) -> str:
    """The phases with their memory, and the last step's synchronisations and collectives, a line for each place."""
    return "\n".join(_lines(record))


def _lines(record: RankRecord) -> Iterator[str]:
    yield (
        f"{record.layout}, rank {record.rank}, {record.place}: {record.num_parameters:,} parameters, "
        f"{record.num_microbatches} micro-batches in a step"
    )
    yield (
        f"{'phase':<18}{'device GiB: peak':>18}{'end':>8}{'host GiB: peak':>16}{'end':>8}"
        f"{'kernels':>10}{'GB moved':>10}{'syncs':>8}"
    )
    for phase in record.phases:
        yield (
            f"{phase.name:<18}{phase.device.peak_bytes / GIB:18.2f}{phase.device.live_bytes / GIB:8.2f}"
            f"{phase.host.peak_bytes / GIB:16.2f}{phase.host.live_bytes / GIB:8.2f}"
            f"{phase.num_kernels:10,}{phase.bytes_outside_products / 1e9:10.1f}{phase.num_syncs:8,}"
        )
    for phase in record.steps[-1] if record.steps else ():
        yield from _events(phase)


def _events(phase: Phase) -> Iterator[str]:
    for sync in phase.syncs:
        size = f" {sync.num_bytes:,} B" if sync.num_bytes else ""
        yield f"{phase.name}: {sync.count} x {sync.operation}{size} at {sync.site}"
    for each in phase.collectives:
        yield (
            f"{phase.name}: {each.count} x {each.operation} over {each.group} ({each.group_size}) of "
            f"{each.num_elements:,} {each.dtype or 'objects'} on {each.device}, {each.num_bytes:,} B, at {each.site}"
        )
