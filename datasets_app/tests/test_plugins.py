"""A format of somebody else's is a module: found, tried, used. The example of the docs, word for word."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from datasets_app.tests.files import write
from datasets_app.validation import CHECKS
from project.testing import run_manage

DOCS = Path(__file__).resolve().parents[2] / "templates" / "docs" / "data.md"


def test_the_format_of_the_docs_works(tmp_path: Path) -> None:
    example = re.search(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert example
    package = tmp_path / "ours"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "colon.py").write_text(example[1])
    (tmp_path / "pairs.txt").write_text("2 + 2 : 4\nCapital of France : Paris\n")
    code = (
        "import json, sys; from pathlib import Path; from datasets_app.importing import Importing, Options\n"
        "importing = Importing(Path(sys.argv[1]), Options())\n"
        "print(json.dumps([importing.detected.format.name, [row.data for row in importing.rows()]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "pairs.txt")],
        env={"TUNELOOP_EXTRA_FORMATS": "ours", "PYTHONPATH": f"{tmp_path}:{DOCS.parents[2]}", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    name, rows = json.loads(done.stdout)
    assert name == "colon"
    assert json.loads(rows[1]) == {"kind": "completion", "prompt": "Capital of France", "completion": "Paris"}


EXAMPLE = Path(__file__).resolve().parent / "example_plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example package, installed by pip into a folder of its own."""
    folder = tmp_path_factory.mktemp("plugin")
    copy = shutil.copytree(EXAMPLE, folder / "package", ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder / "site"), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.mark.full
def test_a_package_that_pip_installed_brings_its_format(installed: Path, tmp_path: Path) -> None:
    """Found by its entry point, listed, tried on a file before the built-in ones, used by the import."""
    env = {"PYTHONPATH": str(installed), "DATA_PATH": str(tmp_path / "data")}
    listed = run_manage("plugins", env=env)
    assert listed.returncode == 0 and "interviews" in listed.stdout, listed.stderr
    assert "interviews" not in run_manage("plugins", env={"DATA_PATH": str(tmp_path / "data")}).stdout
    setup = (
        "from django.core.management import call_command; call_command('migrate', verbosity=0)\n"
        "from project.kernel.models import Workspace; Workspace.objects.create(name='Acme', slug='acme')"
    )
    assert run_manage("shell", "--no-imports", "-c", setup, env=env).returncode == 0
    path = write(tmp_path, "talk.txt", b"Q: Where?\nA: Here.\n\nQ: When?\nA: Now.\n")
    done = run_manage("import_dataset", str(path), "--name", "talk", "--wait", "--json", env=env)
    assert done.returncode == 0, done.stderr
    assert (json.loads(done.stdout)["rows"], json.loads(done.stdout)["row_kind"]) == (2, "completion")
    write(tmp_path, "talk.txt", b"Q: Where?\nQ: When?\nA: Now.\n")
    refused = run_manage("import_dataset", str(path), "--name", "talk", env=env)
    assert refused.returncode == 1 and "Line 1: this question has no answer." in refused.stderr


def test_every_check_loads() -> None:
    assert {"duplicates", "empty_fields", "lengths", "numbers_as_text", "roles"} <= set(CHECKS.names())
    assert not CHECKS.broken()
