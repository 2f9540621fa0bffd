"""Rows come back as they were stored, from the folder or the file."""

from pathlib import Path

import pytest

from project.contracts.chat import Message
from project.contracts.rows import ChatRow, CompletionRow, Row, TextRow
from project.contracts.runs import UserError
from project.modeling.data import iter_rows, read_rows, write_rows

ROWS: list[Row] = [
    ChatRow(messages=(Message(role="user", content="naïve\n漢字"), Message(role="assistant", content="", weight=0))),
    CompletionRow(prompt="a", completion="b"),
    TextRow(text="c"),
]


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    many = ROWS * 1000
    folder = write_rows(many, tmp_path / "data")
    assert read_rows(folder) == many
    assert list(iter_rows(folder / "rows.parquet")) == many


@pytest.mark.parametrize("content", [None, b"", b"not parquet at all"])
def test_unreadable_data_is_a_users_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "rows.parquet").write_bytes(content)
    with pytest.raises(UserError, match="can't be read"):
        read_rows(tmp_path)
