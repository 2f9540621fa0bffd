"""Importing as people do it: by API, page and command, with a real engine process."""

import json
import shutil
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse
from pytest_django import Settings

from project.jobs.models import Job
from project.jobs.testing import run_to_end
from project.kernel import artifacts, edges
from project.testing import Cast, run_manage
from registry.actions import models
from registry.models import ModelVersion, RegisteredModel
from registry.sources import BASE_PACKAGE
from registry.tests.conftest import MakeVersion


@pytest.fixture
def root(tmp_path: Path, tiny_base: Path, settings: Settings) -> Path:
    """The operator's folder of models, with a good one in it."""
    shutil.copytree(tiny_base, tmp_path / "root" / "tiny")
    settings.MODEL_DIR_ROOT = str(tmp_path / "root")
    return tmp_path / "root"


@pytest.mark.full
@pytest.mark.django_db(transaction=True)
def test_an_import_becomes_a_version_and_a_failed_one_leaves_nothing(cast: Cast, root: Path) -> None:
    api = cast.api("teammate")
    started = api.post("/api/v1/models/import/", {"source": "dir:tiny", "name": "tiny"})
    assert started.status_code == 202, started.content
    assert not RegisteredModel.objects.exists()
    job = run_to_end(Job.objects.get(pk=started.json()["job"]))
    assert job.state == "succeeded", job.failure_message
    version = api.get(f"/api/v1/model-versions/{job.result['model_version']}/").json()
    assert (version["reference"], version["stage"], version["kind"]) == ("tiny:1", "production", "full")
    assert (version["origin"], version["source"], version["job"]) == ("import", "dir:tiny", str(job.pk))
    assert version["created_by"] == "token teammate's"
    assert {"model.safetensors", "config.json"} <= {file["path"] for file in version["files"]}
    stored = ModelVersion.objects.get(pk=version["id"])
    assert artifacts.verify(stored.artifact) == []
    assert [edge.relation for edge in edges.upstream(stored)] == ["imported"]

    (root / "tiny" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    again = run_to_end(models.import_model("dir:tiny", workspace=cast.workspace, by=cast.actor("owner"), name="bad"))
    assert (again.state, again.failure_class) == ("failed", "user_error")
    assert "can run code when it is opened" in again.failure_message
    assert RegisteredModel.objects.count() == 1

    (root / "tiny" / "pytorch_model.bin").unlink()
    second = run_to_end(models.import_model("dir:tiny", workspace=cast.workspace, by=cast.actor("owner")))
    assert (ModelVersion.objects.get(pk=second.result["model_version"]).number, second.state) == (2, "succeeded")
    assert ModelVersion.objects.get(number=2).stage == "draft"


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"source": "smollm2"}, "source", "is not a source"),
        ({"source": "hubb:acme/tiny"}, "source", "Did you mean 'hub:'"),
        ({"source": "pip:llm-nothing"}, "source", "is not installed here"),
        ({"source": "dir:../etc"}, "source", "not inside the folder that the operator allows"),
        ({"source": "dir:tinny"}, "source", "Did you mean 'tiny'?"),
        ({"source": "dir:tiny", "name": "a b"}, "name", "is not a usable name"),
        ({"source": "dir:tiny", "base": "nobody"}, "base", "There is no model 'nobody'"),
        ({"source": "dir:tiny", "dtype": "int8"}, "dtype", "not a valid choice"),
        ({"source": "dir:tiny", "nmae": "x"}, "nmae", "Did you mean 'name'?"),
        ({}, "source", "required"),
    ],
)
def test_what_is_wrong_is_said_at_once_and_names_the_field(
    cast: Cast, root: Path, body: dict[str, str], field: str, words: str
) -> None:
    reply = cast.api("teammate").post("/api/v1/models/import/", body)
    assert reply.status_code == 400
    assert words in " ".join(reply.json()["errors"][field])
    assert not Job.objects.exists()


def test_folders_can_be_switched_off(cast: Cast, settings: Settings) -> None:
    settings.MODEL_DIR_ROOT = ""
    reply = cast.api("owner").post("/api/v1/models/import/", {"source": "dir:tiny"})
    assert "An operator sets MODEL_DIR_ROOT" in reply.json()["errors"]["source"][0]


def test_an_adapter_is_no_base(cast: Cast, root: Path, make_version: MakeVersion) -> None:
    adapter = make_version("tuned", base=make_version("base"))
    reply = cast.api("owner").post("/api/v1/models/import/", {"source": "dir:tiny", "base": str(adapter)})
    assert "itself an adapter" in reply.json()["errors"]["base"][0]


def test_viewers_import_nothing(cast: Cast) -> None:
    assert cast.api("viewer").post("/api/v1/models/import/", {"source": BASE_PACKAGE}).status_code == 403
    page = cast.page("viewer").get(reverse("models"))
    assert b"Import SmolLM2" not in page.content


def test_the_empty_list_imports_the_base_model_in_one_click(cast: Cast) -> None:
    browser = cast.page("teammate")
    assert b"Import SmolLM2 135M" in browser.get(reverse("models")).content
    answer = browser.post(reverse("model-import"), {"source": BASE_PACKAGE})
    job = Job.objects.get()
    assert answer.headers["Location"] == reverse("job", args=[job.pk])
    assert job.params["name"] == "smollm2-135m-instruct"
    assert job.title in browser.get(reverse("models")).content.decode()


def test_the_form_shows_what_is_wrong_at_its_field(cast: Cast, root: Path) -> None:
    answer = cast.page("teammate").post(reverse("model-import"), {"source": "dir:tinny", "name": "x"})
    assert answer.status_code == 400
    assert "Did you mean &#x27;tiny&#x27;?" in answer.content.decode()


def test_the_command_says_in_one_line_what_is_wrong(cast: Cast, root: Path) -> None:
    with pytest.raises(CommandError, match="Did you mean 'tiny'"):
        call_command("import_model", "dir:tinny", workspace="acme")


def test_the_command_starts_a_job(cast: Cast, root: Path) -> None:
    out = StringIO()
    call_command("import_model", "dir:tiny", "--name", "t1", "--json", workspace="acme", stdout=out)
    assert json.loads(out.getvalue())["job"] == str(Job.objects.get().pk)


@pytest.mark.full
def test_the_command_waits_and_works_without_a_worker(tmp_path: Path, tiny_base: Path) -> None:
    shutil.copytree(tiny_base, tmp_path / "root" / "tiny")
    env = {"DATA_PATH": str(tmp_path / "data"), "MODEL_DIR_ROOT": str(tmp_path / "root"), "DATABASE_URL": ""}
    assert run_manage("migrate", env=env).returncode == 0
    made = run_manage("shell", "-c", MAKE_WORKSPACE, env=env)
    assert made.returncode == 0, made.stderr
    done = run_manage("import_model", "dir:tiny", "--wait", "--json", env=env)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["state"], told["reference"]) == ("succeeded", "tiny:1")
    assert set(told) == {"job", "state", "model_version", "reference"}
    (tmp_path / "root" / "tiny" / "config.json").write_text('{"auto_map": {"AutoModel": "evil.Model"}}')
    refused = run_manage("import_model", "dir:tiny", "--wait", env=env)
    assert refused.returncode == 1
    assert "asks to run the model's own code" in refused.stderr.splitlines()[-1]


MAKE_WORKSPACE = "from project.kernel.models import Workspace; Workspace.objects.create(name='Acme', slug='acme')"
