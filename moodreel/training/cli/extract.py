"""`extract VIDEO… --out DIR`: write frames or faces of videos as images, to label by hand."""

import argparse
import re
import sys
from pathlib import Path

from moodreel.training.cli.options import Commands, add_common
from moodreel.training.data.extract import MANIFEST, extract
from moodreel.training.data.loading import DataContext
from moodreel.training.experiment.recipe import STORE


def add_parser(commands: Commands) -> None:
    """Add the verb."""
    parser = commands.add_parser("extract", help="write frames of videos, or faces, to label by hand")
    parser.add_argument("videos", type=Path, nargs="+", metavar="VIDEO", help="a video file")
    parser.add_argument("--every", type=parse_duration, default=1.0, help="interval: 1s, 500ms, 2min (default: 1s)")
    parser.add_argument("--size", type=int, default=224, help="pixels a side of an image (default: %(default)s)")
    parser.add_argument("--faces", action="store_true", help="a square around each face instead of whole frames")
    parser.add_argument("--out", type=Path, required=True, help="a new or empty folder")
    add_common(parser, cache=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Extract, and exit with an error where a video could not be read to its end."""
    landmarker = DataContext(STORE, Path()).landmarker if args.faces else None
    result = extract(args.videos, args.out, interval=args.every, size=args.size, landmarker=landmarker)
    print(f"{result.images} image{'' if result.images == 1 else 's'} and {MANIFEST} in {args.out}")
    if result.failed:
        sys.exit(f"moodreel.training: {len(result.failed)} of {len(args.videos)} videos could not be read to their end")


def parse_duration(text: str) -> float:
    """Parse a duration, such as 1s, 500ms, 0.5 or 2min, to seconds.

    Raises:
        ArgumentTypeError: It is not a duration.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|min|)", text.strip())
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration; write it as 1s, 500ms or 2min")
    return float(match[1]) * {"ms": 0.001, "s": 1, "min": 60, "": 1}[match[2]]
