"""The `moodreel` command, also `python -m moodreel`. Without a subcommand it predicts: `moodreel FILE...`."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from moodreel.native_output import silence_native_libraries


@dataclass(frozen=True)
class Subcommand:
    """One subcommand.

    Attributes:
        module: Its module, whose `main` takes the arguments. It is imported only if the subcommand is used: training
            needs packages that serving does not, and importing torch takes seconds.
        help: One line for the overview.
        extra: The extra of the package that holds what it needs.
        takes_name: Whether `main` expects the name of the subcommand as the first argument.
    """

    module: str
    help: str
    extra: str | None = None
    takes_name: bool = False


def _training(text: str) -> Subcommand:
    return Subcommand("moodreel.training.__main__", text, extra="training", takes_name=True)


SUBCOMMANDS = {
    "predict": Subcommand("moodreel.cli.predict", "predict the emotion in videos, images and texts"),
    "batch": Subcommand(
        "moodreel.cli.batch", "predict a whole folder or bucket of videos, on any machines", extra="batch"
    ),
    "serve": Subcommand("moodreel.cli.serve", "run the HTTP service", extra="server"),
    "doctor": Subcommand("api.doctor", "check this host before serving, and say what to fix", extra="server"),
    "logs": Subcommand("moodreel.cli.logs", "read, export, back up or prune the call log"),
    "train": _training("train a model"),
    "evaluate": _training("measure a model on a data set"),
    "calibrate": _training("fit the confidence of a face model on data sets"),
    "compare": _training("compare models on a data set"),
    "explain": _training("show which pixels of a face decided an answer"),
    "export": _training("write a smaller version of a model"),
    "extract": _training("cut faces out of videos for training"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Args:
        argv: The arguments; by default those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        _overview().print_help(sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    name = arguments.pop(0) if arguments[0] in SUBCOMMANDS else "predict"
    if argv is None and name not in ("serve", "doctor", "logs"):
        silence_native_libraries()
    try:
        return _run(name, SUBCOMMANDS[name], arguments)
    except KeyboardInterrupt:
        return 130


def _run(name: str, subcommand: Subcommand, arguments: list[str]) -> int:
    try:
        module = importlib.import_module(subcommand.module)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if subcommand.extra is None or package == "moodreel":
            raise
        print(
            f"moodreel {name} needs the package {package}, which is not installed. "
            f"Install it with: pip install 'moodreel[{subcommand.extra}]'",
            file=sys.stderr,
        )
        return 2
    return module.main([name, *arguments] if subcommand.takes_name else arguments) or 0


def _overview() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "moodreel",
        usage="moodreel COMMAND ...\n       moodreel FILE ...",
        description="Predict the emotion in videos, images and texts, serve it over HTTP, train models.",
        epilog="`moodreel COMMAND --help` shows the options of a command. `moodreel FILE ...` is short for "
        "`moodreel predict FILE ...`.",
    )
    # argparse leaves room for the names of commands by this text: it must be two characters longer than the longest.
    commands = parser.add_subparsers(title="commands", metavar="COMMAND ...")
    for name, subcommand in SUBCOMMANDS.items():
        commands.add_parser(name, help=subcommand.help)
    return parser


if __name__ == "__main__":
    sys.exit(main())
