"""Rows from elsewhere: the Hub (a small one on loopback), a real S3 server, a folder of the operator's."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from datasets_app import sources, storage
from datasets_app.models import Dataset, DatasetVersion
from datasets_app.recipes import fetch_rows
from datasets_app.tests.files import PAIRS, jsonl, parquet, write
from project.contracts.runs import RunSpec, UserError
from project.jobs.engine import secrets_of
from project.jobs.models import Job
from project.jobs.testing import run_to_end
from project.modeling.tests.hub_server import HubServer
from project.runner.context import Context
from project.testing import Cast, S3Server

URL = "/api/v1/datasets/"


def run(folder: Path, uri: str, **params: Any) -> Context:
    """Run the recipe in this process, in a run folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    given = fetch_rows.Params(uri=uri, **params)
    spec = RunSpec(job="test", attempt=1, recipe=fetch_rows.name, params=given.model_dump(), inputs={})
    context = Context(folder, spec)
    fetch_rows.run(given, context)
    return context


def prompts(context: Context) -> list[str]:
    return [row.row["prompt"] for row in storage.read(context.artifact, 0, 1000)]


def result(context: Context) -> dict[str, Any]:
    assert context.outcome is not None
    return context.outcome.result


# --- the Hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    from huggingface_hub import constants

    folder = tmp_path / "repository"
    (folder / "data").mkdir(parents=True)
    columns = {key: [pair[key] for pair in PAIRS] for key in ("prompt", "completion")}
    for number in range(2):
        write(folder / "data", f"train-0000{number}-of-00002.parquet", parquet(columns))
    write(folder / "data", "test-00000-of-00001.parquet", parquet({key: value[:1] for key, value in columns.items()}))
    write(folder, "README.md", b"# Rows\n")
    write(folder, "script.bin", b"\0")
    made = HubServer(folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", made.url)  # for engines
    monkeypatch.setattr(constants, "ENDPOINT", made.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", made.url + "/{repo_id}/resolve/{revision}/{filename}")
    yield made
    made.close()


def test_the_train_split_of_a_repository_pinned_to_a_commit(hub: HubServer, tmp_path: Path) -> None:
    done = run(tmp_path / "run", "hub:acme/rows@v1")
    assert prompts(done) == [pair["prompt"] for pair in PAIRS * 2]
    assert result(done)["source_uri"] == f"hub:acme/rows@{HubServer.sha}"
    assert all(f"/resolve/{HubServer.sha}/" in path for path in hub.asked if "/resolve/" in path)
    assert not any("test-" in path or "script" in path for path in hub.asked)


def test_another_split_and_one_that_is_not_there(hub: HubServer, tmp_path: Path) -> None:
    assert len(prompts(run(tmp_path / "run", "hub:acme/rows", split="test"))) == 1
    with pytest.raises(UserError, match="has no split 'dev'") as caught:
        run(tmp_path / "again", "hub:acme/rows", split="dev")
    assert caught.value.field == "split" and "train" in caught.value.hint


def test_the_card_says_which_files_are_which_split(hub: HubServer, tmp_path: Path) -> None:
    write(hub.folder / "data", "b.jsonl.gz", gzip.compress(jsonl(PAIRS[1:2])))
    write(hub.folder / "data", "a.jsonl", jsonl(PAIRS[:1]))
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: special\n    path: data/[ab].jsonl*\n---\n"
    write(hub.folder, "README.md", card.encode())
    assert prompts(run(tmp_path / "run", "hub:acme/rows")) == [pair["prompt"] for pair in PAIRS[:2]]


def test_the_token_is_sent_when_there_is_one(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "run", "hub:acme/rows")
    assert hub.tokens == {None}
    monkeypatch.setenv("HUGGINGFACE_TOKEN", "hf_secret")
    run(tmp_path / "again", "hub:acme/rows")
    assert "Bearer hf_secret" in hub.tokens


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("hub:acme/nothing", "There is no data set acme/nothing on the Hub, or it is private"),
        ("hub:acme/rows@v9", "acme/rows has no revision 'v9'"),
        ("hub:acme/gated", "acme/gated is gated"),
    ],
)
def test_what_the_hub_does_not_give(hub: HubServer, tmp_path: Path, uri: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        run(tmp_path / "run", uri)


def test_a_repository_that_is_too_large_or_has_no_rows(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at most 100 are taken"):
        run(tmp_path / "run", "hub:acme/rows", max_bytes=100)
    assert not any("train-" in path for path in hub.asked)
    for path in (hub.folder / "data").iterdir():
        path.unlink()
    write(hub.folder, "rows.py", b"")
    with pytest.raises(UserError, match=r"no files of rows\. It makes them with a script"):
        run(tmp_path / "again", "hub:acme/rows")


def test_without_a_network_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be reached from this host") as caught:
        run(tmp_path / "run", "hub:acme/rows")
    assert "DATA_DIR_ROOT" in caught.value.hint


@pytest.mark.full
def test_a_version_remembers_the_commit(hub: HubServer, cast: Cast) -> None:
    made = cast.api("teammate").post(URL, {"name": "rows", "source": {"uri": "hub:acme/rows@v1"}})
    assert made.status_code == 201, made.json()
    assert made.json()["version"]["source_uri"] == "hub:acme/rows@v1"
    assert run_to_end(Job.objects.get(pk=made.json()["job"])).state == "succeeded"
    version = cast.api("viewer").get("/api/v1/dataset-versions/rows/").json()
    assert (version["rows"], version["source_uri"]) == (8, f"hub:acme/rows@{HubServer.sha}")
    assert version["source_bytes"] > 0


@pytest.mark.full
def test_a_failed_fetch_can_be_tried_again(hub: HubServer, cast: Cast) -> None:
    made = cast.api("teammate").post(URL, {"name": "rows", "source": {"uri": "hub:acme/nothing"}}).json()
    job = run_to_end(Job.objects.get(pk=made["job"]))
    assert (job.state, job.failure_field) == ("failed", "source")
    again = cast.api("teammate").post(f"/api/v1/jobs/{job.pk}/retry/")
    assert again.status_code in (200, 201), again.json()
    assert DatasetVersion.objects.get().state == "importing"


# --- a bucket


@pytest.fixture
def bucket(s3_server: S3Server, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    client = boto3.client(
        "s3",
        endpoint_url=s3_server.url,
        aws_access_key_id=s3_server.access_key,
        aws_secret_access_key=s3_server.secret_key,
        region_name="us-east-1",
    )
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    settings.S3_ENDPOINT_URL, settings.DATA_S3_BUCKETS = s3_server.url, ["artifacts"]
    settings.AWS_ACCESS_KEY_ID, settings.AWS_SECRET_ACCESS_KEY = s3_server.access_key, s3_server.secret_key
    client.put_object(Bucket="artifacts", Key="rows/a b/train-1.jsonl", Body=jsonl(PAIRS[:2]))
    client.put_object(Bucket="artifacts", Key="rows/a b/train-2.jsonl.gz", Body=gzip.compress(jsonl(PAIRS[2:])))
    client.put_object(Bucket="artifacts", Key="rows/a b/notes.bin", Body=b"\0")
    return client


@pytest.mark.full
def test_an_object_or_all_below_a_key(bucket: Any, s3_server: S3Server, tmp_path: Path) -> None:
    where = {"s3_endpoint": s3_server.url, "s3_region": "us-east-1"}
    one = run(tmp_path / "one", "s3://artifacts/rows/a b/train-2.jsonl.gz", **where)
    assert prompts(one) == [pair["prompt"] for pair in PAIRS[2:]]
    both = run(tmp_path / "both", "s3://artifacts/rows/a b/", **where)
    assert prompts(both) == [pair["prompt"] for pair in PAIRS]
    for uri, words in (
        ("s3://artifacts/rows/nothing.jsonl", "There is no s3://artifacts/rows/nothing.jsonl"),
        ("s3://artifacts/nothing/", "no file of rows under"),
        ("s3://nobucket/rows.jsonl", "There is no s3://nobucket|may not be read"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            run(tmp_path / "no", uri, **where)
        assert caught.value.field == "source"
    with pytest.raises(UserError, match="at most 100 are taken"):
        run(tmp_path / "no", "s3://artifacts/rows/a b/", max_bytes=100, **where)


@pytest.mark.full
def test_a_wrong_key_and_a_store_that_is_not_there(
    bucket: Any, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(UserError, match="may not be read with this installation's key"):
        run(tmp_path / "run", "s3://artifacts/rows/a b/train-1.jsonl", s3_endpoint=s3_server.url)
    with pytest.raises(UserError, match="store can't be reached"):
        run(tmp_path / "run", "s3://artifacts/rows.jsonl", s3_endpoint="http://127.0.0.1:9", s3_region="us-east-1")


@pytest.mark.full
def test_a_bucket_through_the_api(bucket: Any, cast: Cast) -> None:
    made = cast.api("teammate").post(URL, {"name": "rows", "source": {"uri": "s3://artifacts/rows/a b/"}})
    assert made.status_code == 201, made.json()
    job = Job.objects.get(pk=made.json()["job"])
    assert "secret" not in json.dumps(job.params).lower()
    assert run_to_end(job).state == "succeeded"
    assert cast.api("viewer").get("/api/v1/dataset-versions/rows/").json()["rows"] == 4


def test_only_buckets_that_the_operator_names_are_read(cast: Cast, settings: Any) -> None:
    settings.DATA_S3_BUCKETS = ["ours"]
    refused = cast.api("owner").post(URL, {"name": "rows", "source": {"uri": "s3://artifacts/rows.jsonl"}})
    assert refused.status_code == 400
    assert "an operator allows ours" in refused.json()["errors"]["source"][0]


def test_the_engine_gets_the_keys_through_its_pipe_and_no_other_does(settings: Any) -> None:
    settings.AWS_ACCESS_KEY_ID, settings.AWS_SECRET_ACCESS_KEY, settings.HUGGINGFACE_TOKEN = "a", "b", ""
    assert secrets_of(fetch_rows) == {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}  # type: ignore[arg-type]


# --- a folder of the operator's


def test_a_file_below_the_operators_folder(cast: Cast, settings: Any, tmp_path: Path) -> None:
    settings.DATA_DIR_ROOT = str(tmp_path)
    write(tmp_path, "rows.jsonl", jsonl(PAIRS))
    api = cast.api("teammate")
    made = api.post(URL, {"name": "rows", "source": {"uri": "dir:rows.jsonl"}, "columns": {}})
    assert made.status_code == 201, made.json()
    assert run_to_end(Job.objects.get(pk=made.json()["job"])).state == "succeeded"
    assert (tmp_path / "rows.jsonl").exists()
    second = api.post(f"{URL}rows/versions/", {"source": {"uri": "dir:rows.jsonl"}})
    assert second.json()["version"]["number"] == 2
    write(tmp_path, "bad.jsonl", b'{"prompt": \n')
    assert "file" in api.post(f"{URL}rows/versions/", {"source": {"uri": "dir:bad.jsonl"}}).json()["errors"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"uri": "dir:../secrets"}, "not inside the folder"),
        ({"uri": "dir:/etc/passwd"}, "not inside the folder"),
        ({"uri": "dir:link"}, "not inside the folder"),
        ({"uri": "dir:row.jsonl"}, "Did you mean 'rows.jsonl'?"),
        ({"uri": "hubb:a/b"}, "Did you mean 'hub:org/name@revision'?"),
        ({"uri": "file:///etc/passwd"}, "no place that rows are imported from"),
        ({"uri": "s3://x"}, "is not the address of an object"),
        ({"uri": ""}, "blank"),
        ({"url": "dir:rows.jsonl"}, "Did you mean 'uri'?"),
        ("dir:rows.jsonl", "Invalid data"),
    ],
)
def test_a_place_that_can_not_be_read_is_named(
    cast: Cast, settings: Any, tmp_path: Path, source: Any, words: str
) -> None:
    settings.DATA_DIR_ROOT = str(tmp_path / "data")
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", "rows.jsonl", jsonl(PAIRS))
    (tmp_path / "data" / "link").symlink_to("/etc")
    refused = cast.api("teammate").post(URL, {"name": "rows", "source": source})
    assert refused.status_code == 400
    assert any(name.startswith("source") for name in refused.json()["errors"])
    assert words in json.dumps(refused.json()["errors"])
    assert not Dataset.objects.exists()


def test_an_address_of_the_hub_is_understood() -> None:
    page = "https://huggingface.co/datasets/PolyAI/banking77/tree/v1.0/data?x=1"
    assert str(sources.parse(page)) == "hub:PolyAI/banking77@v1.0"
    assert str(sources.parse("https://huggingface.co/datasets/PolyAI/banking77")) == "hub:PolyAI/banking77"
