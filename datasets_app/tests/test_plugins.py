"""A format of somebody else's is a module: found, tried, used. The example of the docs, word for word."""

import json
import re
import subprocess
import sys
from pathlib import Path

from datasets_app.validation import CHECKS

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


def test_every_check_loads() -> None:
    assert CHECKS.names() == ["duplicates", "empty_fields", "lengths", "numbers_as_text", "roles"]
    assert not CHECKS.broken()
