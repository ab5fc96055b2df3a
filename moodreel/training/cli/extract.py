"""Run `python -m moodreel.training extract VIDEO… --out DIR`: write frames of videos, or faces, to label by hand."""

import argparse
import sys
from pathlib import Path

from moodreel.training.data.extract import MANIFEST, extract, parse_duration
from moodreel.training.data.loading import DataContext


def add_parser(commands: argparse._SubParsersAction, *, store: Path) -> None:
    """Add `extract` to the commands; store: the folder of models."""
    parser = commands.add_parser("extract", help="write frames of videos, or faces, to label by hand")
    parser.add_argument("videos", type=Path, nargs="+", metavar="VIDEO", help="clips to read")
    parser.add_argument("--every", type=parse_duration, default=1.0, help="1s, 500ms, 2min (default: 1s)")
    parser.add_argument("--size", type=int, default=224, help="pixels of an image's side (default: %(default)s)")
    parser.add_argument("--faces", action="store_true", help="a square around each face, not whole frames")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="a new or empty folder")
    parser.set_defaults(run=lambda args: run(args, store))


def run(args: argparse.Namespace, store: Path) -> None:
    """Extract images, and exit with 1 where a video could not be read to its end."""
    landmarker = DataContext(store, args.out).landmarker if args.faces else None
    result = extract(args.videos, args.out, interval=args.every, size=args.size, landmarker=landmarker)
    print(f"{result.images} images and {MANIFEST} in {args.out}")
    if result.failed:
        sys.exit(f"moodreel.training: {len(result.failed)} of {len(args.videos)} videos could not be read to their end")
