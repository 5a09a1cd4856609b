"""The database of an MLflow store: its address, and its SQLite file, made once, by one process, whole or not at all.

MLflow makes its tables by a few dozen migrations, which take seconds and know no lock: two processes that begin at once
break the file for good, and so does a process that is killed meanwhile.
"""

import fcntl
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from mlflow.store.db.db_types import DATABASE_ENGINES
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from intermoe.errors import UserError
from intermoe.files import flush, remove_leftovers, scratch_folder
from pipelines.tracking.address import ADDRESSES, shown

_INSTEAD = "move the file away: the next command makes a new one"


def check_address(uri: str) -> None:
    """Raise where the store is a database that cannot even be asked for; what else may hold a store passes.

    Raises:
        UserError: the address is none, or the module that it needs is missing.
    """
    if urlsplit(uri).scheme.partition("+")[0] not in DATABASE_ENGINES:
        return
    try:
        make_url(uri).get_dialect().import_dbapi()
    except ModuleNotFoundError as error:
        raise UserError(f"MLflow: this address needs the module {error.name}", where=shown(uri)) from error
    except ArgumentError:
        raise UserError("MLflow: not the address of a database", where=shown(uri), allowed=ADDRESSES) from None


def make_database(database: Path) -> None:
    """Make the file where it is missing; processes that ask at once wait for the first.

    Args:
        database: of the store, such as ``mlflow.db``.

    Raises:
        UserError: it cannot be written, or what is there is no database of MLflow, or half of one.
    """
    try:
        if _is_missing(database):
            database.parent.mkdir(parents=True, exist_ok=True)
            lock = database.with_name(f".{database.name}.lock")
            with lock.open("a") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if _is_missing(database):
                    _make(database)
                # Whoever waits on this file now finds the database made.
                lock.unlink(missing_ok=True)
        with database.open("ab"):
            pass
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=database) from None
    _check(database)


def _is_missing(database: Path) -> bool:
    """Whether there is no file; one without a byte is what SQLite leaves that has not been written to."""
    return not database.exists() or (database.is_file() and not database.stat().st_size)


def _make(database: Path) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy.exc import DBAPIError

    # Of processes that were killed here. MLflow's own files have other names.
    remove_leftovers(database.parent, database.name)
    with scratch_folder(database.parent, database.name) as scratch:
        draft = Path(str(scratch)) / database.name
        try:
            store = SqlAlchemyStore(f"sqlite:///{draft}", str(database.parent / "mlruns"))
        except MlflowException as error:
            raise UserError(f"MLflow cannot make its tables: {error}", where=database) from None
        except DBAPIError as error:
            raise UserError(f"cannot be written: {error.orig}", where=database) from None
        # Closes the file.
        store.engine.dispose()
        SqlAlchemyStore._engine_map.pop(f"sqlite:///{draft}", None)
        flush(draft)
        draft.replace(database)
        flush(database.parent)


def _check(database: Path) -> None:
    """Raise where the file is none that MLflow has finished making."""
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True, timeout=10)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            version = connection.execute("SELECT * FROM alembic_version").fetchone() if "runs" in tables else None
    except sqlite3.OperationalError as error:
        # A writer that holds it for long; a directory that cannot be read. MLflow says the rest.
        if "locked" in str(error):
            return
        raise UserError(f"is no database of MLflow, or damaged: {error}", where=database, allowed=_INSTEAD) from None
    except sqlite3.DatabaseError as error:
        raise UserError(f"is no database of MLflow, or damaged: {error}", where=database, allowed=_INSTEAD) from None
    if version is None or any(name.startswith("_alembic_tmp_") for name in tables):
        raise UserError("is half a database: what made it was ended meanwhile", where=database, allowed=_INSTEAD)
