"""Checks in a process of their own say what checks in this process say, and never outlive it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from datasets_app import checking
from datasets_app.checking import Aside
from datasets_app.importing import Entry, Importing, Options
from datasets_app.reading import BadLine
from datasets_app.tests.files import jsonl, write
from datasets_app.validation import CHECKS, Validation


def rows(folder: Path, count: int = 3000) -> list[Entry]:
    given = [
        {"prompt": f"question {n % 900}", "completion": "mail ann@example.com" if n % 7 == 0 else f"answer {n}", "x": n}
        for n in range(count)
    ]
    return list(Importing(write(folder, "rows.jsonl", jsonl(given)), Options()).rows())


def test_the_report_is_the_same(tmp_path: Path) -> None:
    entries = rows(tmp_path)
    here, aside = Validation(), Aside()
    try:
        for entry in entries:
            here.see(entry)
            aside.see(entry)
        bad = [BadLine(3, "not JSON")]
        assert aside.report(bad, 1, format={"name": "jsonl"}) == here.report(bad, 1, format={"name": "jsonl"})
    finally:
        aside.close()


class Longest:
    """A check as a package may bring it: no base class, no more than is needed."""

    name, label = "longest", "Longest row"

    def __init__(self) -> None:
        self._seen: list[int] = []

    def see(self, entry: Entry) -> None:
        self._seen.append(entry.number)

    def findings(self) -> tuple[()]:
        return ()

    def figures(self) -> dict[str, Any]:
        return {"seen": self._seen}


def test_a_check_needs_no_more_than_to_see_rows_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = SimpleNamespace(name=Longest.name, label=Longest.label, Check=Longest)
    monkeypatch.setattr(CHECKS, "all", lambda: [plugin])
    checks = Validation()
    for entry in rows(tmp_path, 1500):
        checks.see(entry)
    assert checks.report([], 0)["figures"] == {"longest": {"seen": list(range(1, 1501))}}


def test_only_large_data_gets_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    before = psutil.Process().children()  # a search that another test has begun
    with checking.validation(1000) as small:
        assert isinstance(small, Validation)
    with checking.validation(checking.WORTH_A_PROCESS) as large:
        assert isinstance(large, Aside)
        assert len(psutil.Process().children()) == len(before) + 1
    assert psutil.Process().children() == before


@pytest.mark.parametrize("how", ["fails", "lacks a file", "dies"])
def test_checks_that_end_before_their_time_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setenv("TUNELOOP_EXTRA_CHECKS", "datasets_app.tests.breaking_checks")
    monkeypatch.setenv("BREAKING", how)
    aside = Aside()
    try:
        with pytest.raises(RuntimeError, match="exit code -9" if how == "dies" else "no such thing"):
            for entry in rows(tmp_path) * 20:
                aside.see(entry)
            aside.report([], 0)
    finally:
        aside.close()


def test_checks_that_are_killed_with_rows_unread_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aside = Aside()
    send = aside._send

    def then_kill(what: str, given: Any) -> None:
        send(what, given)
        if what == "report":
            os.kill(aside._process.pid, signal.SIGKILL)

    monkeypatch.setattr(aside, "_send", then_kill)
    os.kill(aside._process.pid, signal.SIGSTOP)  # it reads nothing any more
    try:
        aside.see(rows(tmp_path, 1)[0])
        with pytest.raises(RuntimeError, match="exit code -9"):
            aside.report([], 0)
    finally:
        aside.close()


def test_a_killed_import_leaves_no_checks_behind() -> None:
    code = (
        "import time; from datasets_app.checking import Aside; "
        "a = Aside(); print(a._process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        deadline = time.monotonic() + 30
        while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.05)
