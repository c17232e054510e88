"""How many calls run at a time, and on which GPUs."""

import pytest

from foretrain.launcher.local import slots


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "visible_gpus", lambda: ["4", "7"])


def test_each_rank_has_a_gpu_of_its_own(two_gpus: None) -> None:
    assert [slot[slots.VISIBLE] for slot in slots.local_slots(1, on_gpus=True)] == ["4", "7"]
    assert [slot[slots.VISIBLE] for slot in slots.local_slots(2, on_gpus=True)] == ["4,7"]


def test_calls_share_gpus_only_if_more_are_asked_for_than_there_are(two_gpus: None) -> None:
    assert [slot[slots.VISIBLE] for slot in slots.local_slots(1, on_gpus=True, jobs=3)] == ["4", "7", "4"]


def test_ranks_of_one_call_never_share_a_gpu(two_gpus: None) -> None:
    with pytest.raises(ValueError, match=r"3 ranks need a GPU each, and this machine has 2: .*train.device=cpu"):
        slots.local_slots(3, on_gpus=True)


def test_without_a_gpu_no_rank_is_given_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "visible_gpus", list)
    assert all(slots.VISIBLE not in slot for slot in slots.local_slots(1, on_gpus=True))
