"""Which stored tensor is which tensor of the model that config.json declares. No torch."""

from collections.abc import Iterable, Mapping

from foretrain.trainer.interop.importing.errors import UnfitError, listed
from foretrain.trainer.interop.importing.kinds import Kind
from foretrain.trainer.interop.importing.stored import Stored
from foretrain.trainer.interop.tensors import Target

HEAD = "lm_head.weight"
DTYPES = ("F32", "BF16", "F16")
"""The types of weights, each of which fp32 holds exactly."""
COMPARED_BYTES = 1 << 22


def fitting(stored: Mapping[str, Stored], targets: Iterable[Target], kind: Kind) -> dict[str, Stored]:
    """The stored tensor of each target, by the target's name.

    Raises UnfitError, which names tensors, if one is missing, if there is another one, or for another shape or type.
    """
    renamed = _renamed(stored, kind)
    wanted = {target.name: target for target in targets}
    extra = [name for name in renamed if name not in wanted]
    if extra == [HEAD]:  # the embedding is the head
        _check_tied(renamed.pop(HEAD), _embedding(renamed, wanted))
        extra = []
    if missing := [name for name in wanted if name not in renamed]:
        advice = f"; with {HEAD} alone missing, tie_word_embeddings is true" if missing == [HEAD] else ""
        raise UnfitError(f"the files lack {listed(missing)} of the {kind.name} that config.json declares{advice}")
    if extra:
        names = [renamed[name].name for name in extra]
        raise UnfitError(f"the files have {listed(names)}, which the {kind.name} that config.json declares has not")
    for name, target in wanted.items():
        _check(renamed[name], target)
    return {name: renamed[name] for name in wanted}


def _renamed(stored: Mapping[str, Stored], kind: Kind) -> dict[str, Stored]:
    """The stored tensors by the names that they have beside a head, without those that config.json determines."""
    has_prefix = any(name.startswith(kind.prefix) for name in stored)
    names = {name: name if has_prefix or name == HEAD else kind.prefix + name for name in stored}
    return {name: stored[found] for found, name in names.items() if not kind.recomputed.fullmatch(name)}


def _embedding(renamed: Mapping[str, Stored], wanted: Mapping[str, Target]) -> Stored | None:
    (name,) = (target.name for target in wanted.values() if [each.name for each in target.sources] == ["embed.weight"])
    return renamed.get(name)


def _check_tied(head: Stored, embedding: Stored | None) -> None:
    """Raise UnfitError unless a stored head is the embedding, byte for byte."""
    size = head.entry.stop - head.entry.start
    if embedding is not None and (head.entry.dtype, head.entry.shape) == (embedding.entry.dtype, embedding.entry.shape):
        cuts = range(0, size, COMPARED_BYTES)
        if all(_read(head, start) == _read(embedding, start) for start in cuts):
            return
    raise UnfitError(
        f"tie_word_embeddings = true in config.json, and {head.path} has another {HEAD} than the embedding: set it to "
        "false there if the model has a head of its own"
    )


def _read(stored: Stored, start: int) -> bytearray:
    return stored.read(start, min(start + COMPARED_BYTES, stored.entry.stop - stored.entry.start))


def _check(stored: Stored, target: Target) -> None:
    entry = stored.entry
    if entry.shape != target.shape:
        raise UnfitError(
            f"{stored.name} in {stored.path} has the shape {entry.shape}, and config.json declares {target.shape}"
        )
    if entry.dtype not in DTYPES:
        raise UnfitError(
            f"{stored.name} in {stored.path} is in {entry.dtype}, and weights must be in {', '.join(DTYPES)}"
        )
