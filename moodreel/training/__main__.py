"""Train, evaluate, calibrate, compare, explain and export models, and extract images from videos to label."""

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Sequence

import torch
from safetensors import SafetensorError

from moodreel.errors import MoodreelError
from moodreel.native_output import silence_native_libraries
from moodreel.training.cli import calibrate, compare, evaluate, explain, export, extract, train
from moodreel.training.cli.deprecated import replace_verb

NAME = "moodreel.training"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb.

    Args:
        arguments: Command-line arguments without the program's name; None for those of the process.
    """
    words = replace_verb(sys.argv[1:] if arguments is None else arguments)
    args = _parser().parse_args(words)
    args.command_line = shlex.join(["python", "-m", NAME, *words])
    torch.set_num_threads(args.threads)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        args.run(args)
        sys.stdout.flush()
    except MoodreelError as error:
        sys.exit(f"{NAME}: {error}")
    except SafetensorError as error:
        sys.exit(f"{NAME}: The weights cannot be written: {error}; make room on their disk, or name another folder.")
    except BrokenPipeError:  # standard output was closed early, as by `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a folder that is a file, no rights, a full disk
        sys.exit(f"{NAME}: {error.filename or 'A file'}: {error.strerror or error}; repair it or name another.")
    except KeyboardInterrupt:
        hint = " The same command with --resume continues from its last checkpoint." if "resume" in args else ""
        print(f"\n{NAME}: interrupted.{hint}", file=sys.stderr)
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {NAME}", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for verb in (train, evaluate, calibrate, compare, explain, export, extract):
        verb.add_parser(commands)
    return parser


if __name__ == "__main__":
    silence_native_libraries()
    main()
