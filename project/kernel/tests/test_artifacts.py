"""What is stored is what was sent, and damage is noticed: on a local disk and on a real S3 server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.files.storage import storages

from project.kernel import artifacts
from project.kernel.errors import Unavailable
from project.kernel.models import Artifact
from project.testing import Cast, S3Server


def s3_settings(server: S3Server, **options: Any) -> dict[str, Any]:
    return {
        "BACKEND": "storages.backends.s3.S3Storage",
        "OPTIONS": {
            "bucket_name": "artifacts",
            "endpoint_url": server.url,
            "access_key": server.access_key,
            "secret_key": server.secret_key,
            "region_name": "us-east-1",
            **options,
        },
    }


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.full)])
def store(request: pytest.FixtureRequest, settings: LazySettings, tmp_path: Path) -> Iterator[str]:
    if request.param == "s3":
        settings.STORAGES = {**settings.STORAGES, "artifacts": s3_settings(request.getfixturevalue("s3_server"))}
    settings.MODEL_CACHE_PATH = tmp_path / "cache"
    yield request.param


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "artifact"
    (made / "tokenizer").mkdir(parents=True)
    (made / "weights.safetensors").write_bytes(bytes(range(256)) * 5000)
    (made / "tokenizer" / "vocab.json").write_text("{}")
    (made / "empty").touch()
    return made


def test_a_stored_folder_comes_back_as_it_was(cast: Cast, store: str, folder: Path) -> None:
    artifact = artifacts.store_tree(folder, workspace=cast.workspace, kind="model")
    assert [file["path"] for file in artifact.files()] == ["empty", "tokenizer/vocab.json", "weights.safetensors"]
    copy = artifacts.local_path(artifact)
    assert (copy / "weights.safetensors").read_bytes() == (folder / "weights.safetensors").read_bytes()
    assert artifacts.verify(artifact) == []
    assert artifacts.local_path(artifact) == copy


def test_a_flipped_byte_and_a_missing_file_are_named(cast: Cast, store: str, folder: Path) -> None:
    artifact = artifacts.store_tree(folder, workspace=cast.workspace, kind="model")
    storage = storages["artifacts"]
    storage.delete(f"{artifact.key}/tokenizer/vocab.json")
    name = f"{artifact.key}/weights.safetensors"
    with storage.open(name, "rb") as file:
        content = bytearray(file.read())
    content[1000] ^= 1
    storage.delete(name)
    with storage.open(name, "wb") as file:
        file.write(bytes(content))
    problems = artifacts.verify(artifact)
    assert len(problems) == 2
    assert problems[0].startswith("tokenizer/vocab.json cannot be read")
    assert problems[1] == "weights.safetensors has changed"


def test_moving_takes_the_files_over(cast: Cast, folder: Path) -> None:
    artifact = artifacts.store_tree(folder, workspace=cast.workspace, kind="model", move=True)
    assert not folder.exists()
    assert artifacts.verify(artifact) == []


def test_links_are_refused(cast: Cast, folder: Path) -> None:
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="link is a link"):
        artifacts.store_tree(folder, workspace=cast.workspace, kind="model")
    assert Artifact.objects.count() == 0


def test_a_store_that_loses_data_leaves_no_row(cast: Cast, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lossy(source: Path, target: Path, *, move: bool) -> None:
        target.mkdir(parents=True)
        (target / "empty").touch()

    monkeypatch.setattr(artifacts, "_store_locally", lossy)
    with pytest.raises(Unavailable, match="did not keep what was sent"):
        artifacts.store_tree(folder, workspace=cast.workspace, kind="model")
    assert Artifact.objects.count() == 0


@pytest.mark.full
def test_wrong_credentials_are_refused_and_nothing_is_left(
    cast: Cast, s3_server: S3Server, settings: LazySettings, folder: Path
) -> None:
    settings.STORAGES = {**settings.STORAGES, "artifacts": s3_settings(s3_server, secret_key="wrong")}
    with pytest.raises(Exception, match=r"SignatureDoesNotMatch|403|Forbidden"):
        artifacts.store_tree(folder, workspace=cast.workspace, kind="model")
    assert Artifact.objects.count() == 0


@pytest.mark.full
def test_a_damaged_download_is_never_used(
    cast: Cast, s3_server: S3Server, settings: LazySettings, folder: Path, tmp_path: Path
) -> None:
    settings.STORAGES = {**settings.STORAGES, "artifacts": s3_settings(s3_server)}
    settings.MODEL_CACHE_PATH = tmp_path / "cache"
    artifact = artifacts.store_tree(folder, workspace=cast.workspace, kind="model")
    storage = storages["artifacts"]
    storage.delete(f"{artifact.key}/empty")
    with storage.open(f"{artifact.key}/empty", "wb") as file:
        file.write(b"no longer")
    with pytest.raises(Unavailable, match="empty is not what was stored"):
        artifacts.local_path(artifact)
    assert not list((tmp_path / "cache" / "artifacts").iterdir())
