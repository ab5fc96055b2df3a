"""List, export and prune the call log: the command line for operators."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from moodreel.storage.call_log import CallFilters, CallLog, CallLogError, write_csv
from moodreel.storage.timestamps import parse_end, parse_start

DEFAULT_DB = Path("logs/calls.db")
DEFAULT_ROWS = 50
MAX_DAYS = 36_500


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run it, as `run` does."""
    parser = argparse.ArgumentParser(prog="moodreel logs", description="Read and prune the call log.")
    add_commands(parser)
    return run(parser.parse_args(arguments))


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command `logs` to another command line. Its options go to `run`."""
    parser = subparsers.add_parser("logs", help="read and prune the call log")
    add_commands(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """List, export or prune. Returns exit status 1, with one line on standard error, if the log cannot be used."""
    if not options.db.exists():
        print(f"There is no call log at {options.db}; name it with --db.", file=sys.stderr)
        return 1
    try:
        _COMMANDS[options.logs_command](CallLog(options.db), options)
    except CallLogError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:  # standard output was closed early, as by `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the commands `list`, `export` and `prune` to a parser."""
    database = argparse.ArgumentParser(add_help=False)
    database.add_argument("--db", type=Path, default=DEFAULT_DB, help="file of the call log (default: %(default)s)")
    filters = argparse.ArgumentParser(add_help=False, parents=[database])
    filters.add_argument("--start", type=parse_start, metavar="DATE", help="ISO 8601, inclusive; UTC if without a zone")
    filters.add_argument("--end", type=parse_end, metavar="DATE", help="the same; a date alone includes that day")
    filters.add_argument("--status-code", type=int, help="HTTP status")
    filters.add_argument("--success", type=_parse_bool, metavar="True|False", help="whether the call succeeded")
    for name in ("client-id", "endpoint", "request-id", "prediction", "modalities"):
        filters.add_argument(f"--{name}", help="exact value")
    filters.add_argument("--limit", type=int, help="maximum number of calls, newest first")
    commands = parser.add_subparsers(dest="logs_command", required=True)
    commands.add_parser("list", parents=[filters], help=f"show calls, newest first ({DEFAULT_ROWS} without --limit)")
    export = commands.add_parser("export", parents=[filters], help="write calls to standard output")
    export.add_argument(
        "--format", choices=("csv", "jsonl"), default="csv", help="output format (default: %(default)s)"
    )
    prune = commands.add_parser("prune", parents=[database], help="delete old calls")
    prune.add_argument("--days", type=_parse_days, required=True, help="keep the calls of the last DAYS days")


def _list(log: CallLog, options: argparse.Namespace) -> None:
    line = "{timestamp:27}  {status_code:>4}  {latency_ms:>9}  {method:6} {endpoint:20} {client_id:20} {result}"
    headings = {name: name for name in ("timestamp", "method", "endpoint", "client_id", "result")}
    print(line.format(**headings, status_code="code", latency_ms="ms"))
    for row in log.iterate(_filters(options), options.limit or DEFAULT_ROWS):
        cells = {column: "-" if value is None else value for column, value in row.items()}
        print(line.format(**cells, result=row["prediction"] or row["error"] or ""))


def _export(log: CallLog, options: argparse.Namespace) -> None:
    rows = log.iterate(_filters(options), options.limit)
    if options.format == "csv":
        write_csv(rows, sys.stdout)
    else:
        for row in rows:
            print(json.dumps(row))


def _prune(log: CallLog, options: argparse.Namespace) -> None:
    print(f"{log.prune(options.days)} calls older than {options.days:g} days deleted from {options.db}.")


_COMMANDS = {"list": _list, "export": _export, "prune": _prune}


def _filters(options: argparse.Namespace) -> CallFilters:
    return CallFilters(**{item.name: getattr(options, item.name) for item in fields(CallFilters)})


def _parse_days(text: str) -> float:
    days = float(text)
    if not 0 < days <= MAX_DAYS:
        raise argparse.ArgumentTypeError(f"must be more than 0 and at most {MAX_DAYS}")
    return days


def _parse_bool(text: str) -> bool:
    try:
        return {"true": True, "false": False}[text.lower()]
    except KeyError as error:
        raise argparse.ArgumentTypeError(f"True or False, not {text!r}") from error


if __name__ == "__main__":
    sys.exit(main())
