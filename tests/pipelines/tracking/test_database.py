"""The file of an MLflow store: whole or absent, whoever makes it and however many do."""

import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from intermoe.errors import UserError
from pipelines.tracking import database as store_database
from pipelines.tracking.address import check_reachable
from pipelines.tracking.database import make_database
from pipelines.tracking.runs import Run

MAKE = """
import sys
from pathlib import Path
from pipelines.tracking.database import make_database
make_database(Path(sys.argv[1]))
"""


def test_who_asks_at_once_waits_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes, which tests/faults has, are to the lock what threads are."""
    database = tmp_path / "mlflow.db"
    made = []
    make = store_database._make
    monkeypatch.setattr(store_database, "_make", lambda file: (made.append(file), make(file)))
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(make_database, [database] * 3))
    assert made == [database]
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db"}
    Run.start(f"sqlite:///{database}", "e", "r", params={}).finish()


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_no_half_a_database(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    process = subprocess.Popen([sys.executable, "-c", MAKE, str(database)])
    deadline = time.monotonic() + 60
    while not (drafts := list(tmp_path.glob(".mlflow.db.*/mlflow.db"))) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert drafts
    time.sleep(0.3)
    process.kill()
    process.wait()
    assert not database.exists()
    # An empty file is what SQLite leaves where nothing was written.
    database.touch()
    check_reachable(f"sqlite:///{database}")
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db"}
    Run.start(f"sqlite:///{database}", "e", "r", params={}).finish()


def test_a_file_that_is_no_whole_database_is_one_line(tmp_path: Path) -> None:
    instead = "(allowed: move the file away: the next command makes a new one)"
    half, other = tmp_path / "half.db", tmp_path / "other.db"
    with closing(sqlite3.connect(half)) as connection:
        for table in ("runs", "alembic_version", "_alembic_tmp_latest_metrics"):
            connection.execute(f"CREATE TABLE {table} (version TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('1')")
        connection.commit()
    other.write_text("a note, not a database\n" * 100)
    for file, message in {
        half: "is half a database: what made it was ended meanwhile",
        other: "is no database of MLflow, or damaged: file is not a database",
    }.items():
        before = file.read_bytes()
        with pytest.raises(UserError) as error:
            check_reachable(f"sqlite:///{file}")
        assert str(error.value) == f"{file}: {message} {instead}"
        assert file.read_bytes() == before
