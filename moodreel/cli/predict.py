"""`moodreel predict FILE...`: predict the emotion in videos, images and texts, without a server."""

import argparse
import contextlib
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
from tqdm import tqdm

from moodreel.cli import formatting
from moodreel.cli.options import add_loop_options, add_model_options
from moodreel.errors import MoodreelError, NoFace, UnsupportedMedia
from moodreel.media.container import MediaFile, check_file_size, video_demuxer
from moodreel.media.image import is_image
from moodreel.media.video_decoder import VideoLimits
from moodreel.models.model_store import find_model_store
from moodreel.pipelines.boomerang import OUTPUTS, BoomerangClip, LoopOptions
from moodreel.pipelines.engine import Engine
from moodreel.pipelines.image import ImagePipeline
from moodreel.pipelines.text import TextPipeline
from moodreel.pipelines.video import VideoPipeline

TEXT_SUFFIXES = (".txt", ".md")
PLOT_SUFFIXES = (".png", ".svg", ".pdf")
LOOP_SUFFIXES = tuple(f".{output}" for output in OUTPUTS)


@dataclass(frozen=True)
class _Pipelines:
    """The pipelines that the files on the command line need; None for the others."""

    videos: VideoPipeline | None
    images: ImagePipeline | None
    texts: TextPipeline | None


def main(argv: Sequence[str]) -> int:
    """Predict each file. Returns 0 if all were, 1 if one failed, 2 if it cannot begin or go on."""
    parser = _parser()
    options = parser.parse_intermixed_args(_keep_names(argv))
    try:
        _check_output(parser, options, "thumbnail", LOOP_SUFFIXES)
        _check_output(parser, options, "timeline", PLOT_SUFFIXES)
        pipelines = _load(options)
    except (MoodreelError, OSError) as error:  # a folder may be closed to this user, a name too long
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        print(f"moodreel: {reason}", file=sys.stderr)
        return 2
    try:
        failed = _predict_all(pipelines, options)
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # standard output was closed early, as by `| head`
            return 0
        print(f"moodreel: standard output: {error.strerror}", file=sys.stderr)
        return 2
    return 1 if failed else 0


def _keep_names(argv: Sequence[str]) -> list[str]:
    """Write `-name` after `--` as `./-name`: `parse_intermixed_args` drops the `--` and takes it for an option."""
    end = argv.index("--") if "--" in argv else len(argv)
    return [*argv[:end], *(f"./{name}" if name.startswith("-") else name for name in argv[end + 1 :])]


def _predict_all(pipelines: _Pipelines, options: argparse.Namespace) -> int:
    """Predict each file and print its result. Returns how many failed."""
    failed = 0
    for file in tqdm(options.files, unit="file", disable=len(options.files) == 1 or None, position=1):
        try:
            _predict(pipelines, file, options)
        except BrokenPipeError:
            raise
        except (MoodreelError, OSError) as error:
            failed += 1
            reason = _os_reason(error, file) if isinstance(error, OSError) else str(error)
            _print(json.dumps({"clip": str(file), "error": reason}) if options.json else f"{file}: {reason}")
    return failed


def _os_reason(error: OSError, file: Path) -> str:
    """Say what failed, and at which file if it is not the input."""
    reason = error.strerror or "It cannot be read."
    return reason if error.filename in (None, str(file)) else f"{error.filename}: {reason}"


def _check_output(
    parser: argparse.ArgumentParser, options: argparse.Namespace, name: str, suffixes: Sequence[str]
) -> None:
    """Reject an output before anything is read: one that is there already, or that cannot be written."""
    target: Path | None = getattr(options, name)
    if target is None:
        return
    single = len(options.files) == 1
    if single and target.suffix not in suffixes:
        parser.error(f"--{name} ends in {', '.join(suffixes[:-1])} or {suffixes[-1]}")
    if single and not target.parent.is_dir():
        parser.error(f"--{name}: there is no folder {target.parent}")
    if not single and target.exists() and not target.is_dir():
        parser.error(f"--{name} names a folder for several files, and {target} is a file")
    paths = [_output_path(target, file, suffixes[0], options.files) for file in options.files]
    if twice := [path for path, count in Counter(paths).items() if count > 1]:
        parser.error(f"--{name}: several files would be written to {twice[0]}. Predict them one by one")
    inputs = set(map(os.path.realpath, options.files))
    if same := [path for path in paths if os.path.realpath(path) in inputs]:
        parser.error(f"--{name} would overwrite {same[0]}, which is to be predicted. Name another file or folder")
    if not options.force and (there := [path for path in paths if path.exists()]):
        parser.error(f"--{name}: {there[0]} exists. --force overwrites it")


def _load(options: argparse.Namespace) -> _Pipelines:
    if not any(map(os.path.exists, options.files)):  # false too where a folder is closed to this user
        return _Pipelines(None, None, None)
    is_text = [_is_text(file) for file in options.files]
    store, use_gpu = options.model_store or find_model_store(), options.use_gpu
    texts = TextPipeline.load(store, use_gpu=use_gpu) if any(is_text) else None
    if all(is_text):
        return _Pipelines(None, None, texts)
    engine = Engine.load(store, model_path=options.model_path, use_gpu=use_gpu, prior=options.prior)
    return _Pipelines(VideoPipeline(engine), ImagePipeline(engine), texts)


def _is_text(file: Path) -> bool:
    return file.suffix.lower() in TEXT_SUFFIXES


def _predict(pipelines: _Pipelines, file: Path, options: argparse.Namespace) -> None:
    check_file_size(file.stat().st_size)
    if pipelines.texts and _is_text(file):
        return _predict_text(pipelines.texts, file, options)
    data = file.read_bytes()
    if not data:
        raise UnsupportedMedia("The file is empty: it has 0 bytes.")
    if pipelines.images and is_image(data):
        return _predict_image(pipelines.images, file, data, options)
    if pipelines.videos:
        _predict_video(pipelines.videos, file, data, options)


def _predict_text(pipeline: TextPipeline, file: Path, options: argparse.Namespace) -> None:
    if options.thumbnail or options.timeline:
        raise UnsupportedMedia("A text has no loop and no timeline: leave --thumbnail and --timeline out.")
    [result] = pipeline.predict([file.read_text(encoding="utf-8", errors="replace")], model=options.model)
    _print_result(file, formatting.describe_text(result), formatting.text_to_json(file, result), options)


def _predict_image(pipeline: ImagePipeline, file: Path, data: bytes, options: argparse.Namespace) -> None:
    if options.thumbnail or options.timeline:
        raise UnsupportedMedia("A picture has no loop and no timeline: leave --thumbnail and --timeline out.")
    result = pipeline.predict(data, model=options.model)
    _print_result(file, formatting.describe_image(result), formatting.image_to_json(file, result), options)


def _predict_video(pipeline: VideoPipeline, file: Path, data: bytes, options: argparse.Namespace) -> None:
    shape = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f} of {total:.1f} s"
    with tqdm(desc=file.name, total=_seconds(data), bar_format=shape, leave=False, disable=None) as bar:

        def progress(time: float) -> None:
            bar.update(min(time, bar.total) - bar.n)

        loop = _loop_options(file, options)
        try:
            result = pipeline.predict(data, model=options.model, explain=options.explain, loop=loop, progress=progress)
        except NoFace:
            if loop:
                _write_loop(file, pipeline.thumbnail(data, loop, model=options.model).boomerang, options)
            raise
    if options.timeline:
        _make_folder(options.timeline, options)
        # Imported here: matplotlib takes a second, and few want a plot.
        from moodreel.pipelines.timeline_plot import plot_timeline

        plot_timeline(result, _output_path(options.timeline, file, PLOT_SUFFIXES[0], options.files), title=file.name)
    if result.boomerang:
        _write_loop(file, result.boomerang, options)
    # Last, so that a file that cannot be written is the only line of this video.
    _print_result(file, formatting.describe_video(result), formatting.video_to_json(file, result), options)


def _write_loop(file: Path, loop: BoomerangClip, options: argparse.Namespace) -> None:
    _make_folder(options.thumbnail, options)
    _output_path(options.thumbnail, file, LOOP_SUFFIXES[0], options.files).write_bytes(loop.data)


def _make_folder(target: Path, options: argparse.Namespace) -> None:
    """Make the folder that an option names for several files."""
    if len(options.files) > 1:
        target.mkdir(parents=True, exist_ok=True)


def _seconds(data: bytes) -> float:
    """Return the duration that a clip's header says, for the progress bar; the longest one allowed if it says none."""
    longest = VideoLimits().seconds
    if demuxer := video_demuxer(data):
        with contextlib.suppress(av.FFmpegError, OSError), MediaFile(data, demuxer).open() as container:
            seconds = (container.duration or 0) / av.time_base
            return seconds if 0 < seconds < longest else longest
    return longest


def _loop_options(file: Path, options: argparse.Namespace) -> LoopOptions | None:
    if not options.thumbnail:
        return None
    output = _output_path(options.thumbnail, file, LOOP_SUFFIXES[0], options.files).suffix[1:]
    return LoopOptions(options.duration, options.size, output, aspect=options.aspect)


def _print_result(file: Path, line: str, as_json: formatting.Json, options: argparse.Namespace) -> None:
    _print(json.dumps(as_json) if options.json else f"{file}: {line}")


def _print(line: str) -> None:
    # A file name may have bytes or characters that the terminal has not.
    encoding = sys.stdout.encoding or "utf-8"
    tqdm.write(line.encode(encoding, "backslashreplace").decode(encoding), file=sys.stdout)


def _output_path(target: Path, file: Path, suffix: str, files: Sequence[Path]) -> Path:
    """Return `target` itself for one input file, or a file in the folder `target` for several."""
    return target if len(files) == 1 else target / f"{file.stem}{suffix}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "moodreel predict",
        description="Predict the emotion in videos and images (by the face) and in texts (.txt, .md).",
        epilog="With several files, --thumbnail and --timeline name folders. The limits are the service's: 60 seconds "
        "and 3600 frames a video, 3840 x 2160 pixels a frame, 5 MiB and 40 million pixels an image, 20,000 characters "
        "a text. Exit status: 0 if every file was predicted, 1 if one was not, 2 for a wrong command line.",
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a video, an image or a text")
    parser.add_argument("--json", action="store_true", help="print one JSON object per file, one per line")
    parser.add_argument("--explain", action="store_true", help="name the facial actions that weighed most (videos)")
    parser.add_argument(
        "--thumbnail",
        type=Path,
        metavar="FILE",
        help="write a loop of the best moment (.mp4, .webp, .gif); without a face, of the one with most motion",
    )
    add_loop_options(parser)
    parser.add_argument(
        "--timeline", type=Path, metavar="FILE", help="write a plot of the emotions over time (.png, .svg, .pdf)"
    )
    parser.add_argument("--force", action="store_true", help="overwrite files of --thumbnail and --timeline")
    add_model_options(parser)
    parser.add_argument(
        "--use-gpu", choices=("auto", "0", "1"), default="auto", help="use a GPU (CUDA, MPS): auto, 0 (no), 1 (yes)"
    )
    return parser
