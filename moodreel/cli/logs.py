"""`moodreel logs`: list, follow, export, prune, back up and restore the call log."""

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from datetime import datetime
from itertools import islice
from pathlib import Path

from moodreel.cli.number import number
from moodreel.storage.call_log import COLUMNS, CallFilters, CallLog, CallLogError
from moodreel.storage.call_log_backup import back_up, restore
from moodreel.storage.call_log_export import write_csv, write_parquet
from moodreel.storage.database import Row, is_url
from moodreel.storage.timestamps import parse_end, parse_start

DEFAULT_DB = Path("logs/calls.db")
DEFAULT_ROWS = 50
MAX_DAYS = 36_500


def main(arguments: Sequence[str]) -> int:
    """Run the command. Returns exit status 1, with one line on standard error, if the log cannot be used."""
    options = _parser().parse_args(arguments)
    try:
        options.db = options.db or _service_log()
    except (OSError, ValueError) as error:
        print(f".env cannot be read ({error}). Name the log with --db.", file=sys.stderr)
        return 1
    if not is_url(options.db) and not Path(options.db).exists() and options.command != "restore":
        print(f"There is no call log at {options.db}; name it with --db.", file=sys.stderr)
        return 1
    if isinstance(sys.stdout, io.TextIOWrapper):  # what it cannot show, such as an emoji of a client_id, is escaped
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _COMMANDS[options.command](options)
    except CallLogError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:  # standard output was closed early, as by `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:  # as `follow` is stopped
        pass
    return 0


def _service_log() -> Path | str:
    """Return where the service in the current folder has its log. Raises OSError or ValueError if .env is unusable."""
    variables: dict[str, str | None] = dict(os.environ)
    # It is a part of the extra `server`; without that, there is no service here.
    with suppress(ModuleNotFoundError):
        from dotenv import dotenv_values

        variables = dotenv_values(".env") | variables
    return variables.get("LOG_DATABASE_URL") or variables.get("LOG_PATH") or DEFAULT_DB


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="moodreel logs", description="Read and maintain the call log.")
    database = argparse.ArgumentParser(add_help=False)
    database.add_argument(
        "--db",
        help="file or URL of the call log (default: LOG_DATABASE_URL, else "
        f"LOG_PATH, in the environment or in .env of the current folder, else {DEFAULT_DB})",
    )
    filters = argparse.ArgumentParser(add_help=False, parents=[database])
    filters.add_argument(
        "--start", type=_date(parse_start), metavar="DATE", help="ISO 8601, inclusive; UTC if without a zone"
    )
    filters.add_argument(
        "--end", type=_date(parse_end), metavar="DATE", help="the same; a date alone includes that day"
    )
    filters.add_argument("--status-code", type=number(int, 100, 599), help="HTTP status")
    filters.add_argument("--success", type=_parse_bool, metavar="True|False", help="whether the call succeeded")
    for name in ("client-id", "endpoint", "request-id", "prediction", "modalities", "caller", "error", "model", "job"):
        filters.add_argument(f"--{name}", type=_parse_text, help="exact value")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("follow", parents=[filters], help="show calls as they end, until Ctrl-C")
    filters.add_argument("--limit", type=number(int, 1, sys.maxsize), help="maximum number of calls, newest first")
    commands.add_parser("list", parents=[filters], help=f"show calls, newest first ({DEFAULT_ROWS} without --limit)")
    export = commands.add_parser("export", parents=[filters], help="write calls to standard output")
    export.add_argument(
        "--format", choices=("csv", "jsonl", "parquet"), default="csv", help="output format (default: %(default)s)"
    )
    prune = commands.add_parser("prune", parents=[database], help="delete old calls")
    prune.add_argument(
        "--days", type=number(float, 0.001, MAX_DAYS), required=True, help="keep the calls of the last DAYS days"
    )
    backup = commands.add_parser(
        "backup", parents=[database], help="copy the log (SQLite) into a new file, and check the copy"
    )
    backup.add_argument("file", type=Path, metavar="FILE", help="the copy, which must not exist yet")
    restore = commands.add_parser(
        "restore", parents=[database], help="replace the contents of the log (SQLite) with a backup"
    )
    restore.add_argument("file", type=Path, metavar="FILE", help="a copy that `moodreel logs backup` made")
    return parser


def _list(options: argparse.Namespace) -> None:
    titles = {column: column for column in COLUMNS} | {
        "status_code": "code",
        "latency_ms": "ms",
        "prediction": "result",
    }
    print(_to_line(titles))
    for row in islice(CallLog(options.db).iterate(_filters(options)), options.limit or DEFAULT_ROWS):
        print(_to_line(row))


def _follow(options: argparse.Namespace) -> None:
    for row in CallLog(options.db).follow(_filters(options)):
        print(_to_line(row), flush=True)


def _to_line(row: Row) -> str:
    result = row["prediction"] or row["error"] or row["job"] or ""
    cells = {column: "-" if value is None else value for column, value in row.items()}
    line = "{timestamp:27}  {status_code:>4}  {latency_ms:>9}  {method:6} {endpoint:20} {client_id:20} {result}"
    return line.format(**cells, result=result)


def _export(options: argparse.Namespace) -> None:
    rows = islice(CallLog(options.db).iterate(_filters(options)), options.limit)
    if options.format == "csv":
        write_csv(rows, sys.stdout)
    elif options.format == "jsonl":
        for row in rows:
            print(json.dumps(row))
    else:
        try:
            write_parquet(rows, sys.stdout.buffer)
        except ImportError as error:
            raise CallLogError('Parquet needs pyarrow: pip install "moodreel[parquet]".') from error


def _prune(options: argparse.Namespace) -> None:
    deleted = CallLog(options.db).prune(options.days)
    place = "PostgreSQL" if is_url(options.db) else options.db
    print(f"{deleted} calls older than {options.days:g} days deleted from {place}.")


def _back_up(options: argparse.Namespace) -> None:
    print(f"{back_up(_sqlite_path(options), options.file)} calls copied to {options.file}. The copy was checked.")


def _restore(options: argparse.Namespace) -> None:
    print(f"{restore(options.file, _sqlite_path(options))} calls restored from {options.file} to {options.db}.")


def _sqlite_path(options: argparse.Namespace) -> Path:
    if is_url(options.db):
        raise CallLogError(
            "backup and restore are for SQLite files. For PostgreSQL use its own tools:"
            ' pg_dump -Fc "$LOG_DATABASE_URL" >moodreel.dump, and pg_restore.'
        )
    return Path(options.db)


_COMMANDS = {
    "list": _list,
    "follow": _follow,
    "export": _export,
    "prune": _prune,
    "backup": _back_up,
    "restore": _restore,
}


def _filters(options: argparse.Namespace) -> CallFilters:
    return CallFilters(**{item.name: getattr(options, item.name) for item in fields(CallFilters)})


def _date(parse: Callable[[str], datetime]) -> Callable[[str], datetime]:
    """Return a parser of dates whose error says how to write one."""

    def parse_date(text: str) -> datetime:
        try:
            return parse(text)
        except ValueError as error:
            example = "such as 2025-08-16 or 2025-08-16T12:34:56Z"
            raise argparse.ArgumentTypeError(f"must be a date in ISO 8601, {example}, not {text!r}") from error

    return parse_date


def _parse_text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise argparse.ArgumentTypeError(f"must be UTF-8, not {text!r}") from error
    return text


def _parse_bool(text: str) -> bool:
    try:
        return {"true": True, "false": False}[text.lower()]
    except KeyError as error:
        raise argparse.ArgumentTypeError(f"True or False, not {text!r}") from error
