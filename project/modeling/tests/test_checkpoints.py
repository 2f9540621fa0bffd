"""A checkpoint is whole and verified, or it is not there."""

from pathlib import Path

import pytest

from project.modeling import checkpoints


def built(tmp_path: Path, text: str = "weights") -> Path:
    folder = tmp_path / "tmp" / "building"
    (folder / "best").mkdir(parents=True)
    (folder / "model.bytes").write_text(text)
    (folder / "best" / "model.bytes").write_text("better")
    return folder


def commit(tmp_path: Path, step: int, attempt: str = "1", text: str = "weights") -> Path:
    return checkpoints.commit(
        built(tmp_path, text), tmp_path / attempt, step=step, data_digest="d", metrics={"loss": 1.5}
    )


def test_a_committed_checkpoint_reads_back_and_verifies(tmp_path: Path) -> None:
    path = commit(tmp_path, 7)
    manifest = checkpoints.read(path)
    assert manifest is not None
    assert (path.name, manifest.step, manifest.data_digest, manifest.metrics) == (
        "step-00000007",
        7,
        "d",
        {"loss": 1.5},
    )
    assert [file.name for file in manifest.files] == ["best/model.bytes", "model.bytes"]
    assert checkpoints.problems(path) == []
    assert not (tmp_path / "tmp" / "building").exists()


@pytest.mark.parametrize("name", ["model.bytes", "best/model.bytes", "manifest.json", "COMMIT"])
@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_any_damage_is_seen_and_the_one_before_is_used(tmp_path: Path, name: str, damage: str) -> None:
    before, last = commit(tmp_path, 3), commit(tmp_path, 12)
    raw = (last / name).read_bytes()
    if damage == "delete":
        (last / name).unlink()
    else:
        (last / name).write_bytes(raw[:-1] if damage == "cut" else bytes([raw[0] ^ 1]) + raw[1:])
    assert checkpoints.problems(last)
    assert checkpoints.newest([tmp_path / "1"]) == before


def test_the_newest_is_that_of_the_highest_step_in_any_attempt(tmp_path: Path) -> None:
    commit(tmp_path, 3, "1")
    high = commit(tmp_path, 100_000_000, "1")
    commit(tmp_path, 20, "2")
    assert checkpoints.newest([tmp_path / "1", tmp_path / "2", tmp_path / "3"]) == high
    assert checkpoints.newest([tmp_path / "3"]) is None


def test_an_uncommitted_folder_is_no_checkpoint_and_is_replaced(tmp_path: Path) -> None:
    path = commit(tmp_path, 5, text="old")
    (path / "COMMIT").unlink()
    assert checkpoints.newest([tmp_path / "1"]) is None
    for text in ("new", "newer"):
        assert (commit(tmp_path, 5, text=text) / "model.bytes").read_text() == text


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    paths = [commit(tmp_path, step) for step in (1, 9, 10, 11)]
    checkpoints.prune(tmp_path / "1", keep=2)
    assert [path.exists() for path in paths] == [False, False, True, True]
    assert checkpoints.newest([tmp_path / "1"]) == paths[-1]


def test_the_best_one_is_kept_beside_the_newest(tmp_path: Path) -> None:
    def measured(step: int, eval_loss: float) -> Path:
        metrics = {"eval_loss": eval_loss}
        return checkpoints.commit(built(tmp_path), tmp_path / "1", step=step, metrics=metrics)

    paths = [measured(1, 3.0), measured(2, 1.0), measured(3, 2.0), commit(tmp_path, 4), measured(5, 1.0)]
    checkpoints.prune(tmp_path / "1", keep=1)
    assert [path.exists() for path in paths] == [False, True, False, False, True]


def test_one_that_is_being_read_is_not_pruned(tmp_path: Path) -> None:
    paths = [commit(tmp_path, step) for step in (1, 2, 3)]
    (paths[0] / checkpoints.HOLD).touch()
    checkpoints.prune(tmp_path / "1", keep=1)
    assert [path.exists() for path in paths] == [True, False, True]
    assert checkpoints.problems(paths[0]) == []


def test_what_may_change_the_last_digits_is_named(tmp_path: Path) -> None:
    then = checkpoints.Manifest(
        step=1, files=(), versions={"torch": "2.13.0"}, conditions={"device": "cpu", "threads": 2, "batch_size": 4}
    )
    same = {"device": "cpu", "threads": 2, "batch_size": 4}
    assert checkpoints.differences(then, versions={"torch": "2.13.0"}, conditions=same) == []
    other = {"device": "cuda", "threads": 4, "batch_size": 2}
    assert checkpoints.differences(then, versions={"torch": "2.14.0", "peft": "0.20"}, conditions=other) == [
        "on cuda instead of cpu",
        "on 4 threads instead of 2",
        "with a batch_size of 2 instead of 4",
        "with torch 2.14.0 instead of 2.13.0",
    ]
    old = checkpoints.Manifest(step=1, files=())  # written before this was noted
    assert checkpoints.differences(old, versions={"torch": "2.14.0"}, conditions=other) == []
