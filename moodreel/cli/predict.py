"""`moodreel predict FILE...`: predict the emotion in videos, images and texts, without a server."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from moodreel.cli import formatting
from moodreel.errors import MoodreelError, UnsupportedMedia
from moodreel.media.image import is_image
from moodreel.models.model_card import DIARY, PRIORS
from moodreel.models.model_store import find_model_store
from moodreel.pipelines.boomerang import OUTPUTS, LoopOptions
from moodreel.pipelines.engine import Engine
from moodreel.pipelines.face_crop import ASPECTS
from moodreel.pipelines.image import ImagePipeline
from moodreel.pipelines.text import TextPipeline
from moodreel.pipelines.video import VideoPipeline

TEXT_SUFFIXES = (".txt", ".md")
PLOT_SUFFIXES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class _Pipelines:
    """What the files on the command line need; None for what they do not."""

    videos: VideoPipeline | None
    images: ImagePipeline | None
    texts: TextPipeline | None


def main(argv: Sequence[str]) -> int:
    """Predict each file. Returns 0 if all were, 1 if one failed, 2 if the models cannot be loaded."""
    parser = _parser()
    options = parser.parse_args(argv)
    if len(options.files) == 1:
        if options.timeline and options.timeline.suffix not in PLOT_SUFFIXES:
            parser.error("--timeline ends in .png, .svg or .pdf")
        if options.thumbnail and options.thumbnail.suffix[1:] not in OUTPUTS:
            parser.error("--thumbnail ends in .mp4, .webp or .gif")
    try:
        pipelines = _load(options)
    except MoodreelError as error:
        print(f"moodreel: {error}", file=sys.stderr)
        return 2
    failed = 0
    for file in tqdm(options.files, unit="file", disable=len(options.files) == 1 or None, position=1):
        try:
            _predict(pipelines, file, options)
        except (MoodreelError, OSError) as error:
            failed += 1
            reason = error.strerror if isinstance(error, OSError) else error
            _print(json.dumps({"clip": str(file), "error": str(reason)}) if options.json else f"{file}: {reason}")
    return 1 if failed else 0


def _load(options: argparse.Namespace) -> _Pipelines:
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
    if pipelines.texts and _is_text(file):
        return _predict_text(pipelines.texts, file, options)
    data = file.read_bytes()
    if pipelines.images and is_image(data):
        return _predict_image(pipelines.images, file, data, options)
    if pipelines.videos:
        _predict_video(pipelines.videos, file, data, options)


def _predict_text(pipeline: TextPipeline, file: Path, options: argparse.Namespace) -> None:
    if options.thumbnail or options.timeline:
        raise UnsupportedMedia("A text has no loop and no timeline: leave --thumbnail and --timeline out.")
    [result] = pipeline.predict([file.read_text(encoding="utf-8", errors="replace")], model=options.model)
    _print(
        json.dumps(formatting.text_to_json(file, result))
        if options.json
        else f"{file}: {formatting.describe_text(result)}"
    )


def _predict_image(pipeline: ImagePipeline, file: Path, data: bytes, options: argparse.Namespace) -> None:
    if options.thumbnail or options.timeline:
        raise UnsupportedMedia("A picture has no loop and no timeline: leave --thumbnail and --timeline out.")
    result = pipeline.predict(data, model=options.model)
    _print(
        json.dumps(formatting.image_to_json(file, result))
        if options.json
        else f"{file}: {formatting.describe_image(result)}"
    )


def _predict_video(pipeline: VideoPipeline, file: Path, data: bytes, options: argparse.Namespace) -> None:
    with tqdm(desc=file.name, unit=" frames", leave=False, disable=None) as bar:

        def progress(time: float) -> None:
            bar.set_postfix_str(f"{time:.1f} s")
            bar.update()

        result = pipeline.predict(
            data, model=options.model, explain=options.explain, loop=_loop_options(file, options), progress=progress
        )
    _print(
        json.dumps(formatting.video_to_json(file, result))
        if options.json
        else f"{file}: {formatting.describe_video(result)}"
    )
    if options.timeline:
        # Imported here: matplotlib takes a second, and few want a plot.
        from moodreel.pipelines.timeline_plot import plot_timeline

        plot_timeline(result, _output_path(options.timeline, file, "png", options.files), title=file.name)
    if result.boomerang:
        _output_path(options.thumbnail, file, "mp4", options.files).write_bytes(result.boomerang.data)


def _loop_options(file: Path, options: argparse.Namespace) -> LoopOptions | None:
    if not options.thumbnail:
        return None
    output = _output_path(options.thumbnail, file, "mp4", options.files).suffix[1:]
    return LoopOptions(options.duration, options.size, output, aspect=options.aspect)


def _print(line: str) -> None:
    tqdm.write(line, file=sys.stdout)


def _output_path(target: Path, file: Path, suffix: str, files: Sequence[Path]) -> Path:
    """Return `target` itself for one input file, or a file in the folder `target` for several."""
    if len(files) == 1:
        return target
    target.mkdir(parents=True, exist_ok=True)
    return target / f"{file.stem}.{suffix}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "moodreel predict",
        description="Predict the emotion in videos and images (by the face) and in texts (.txt, .md).",
        epilog="With several files, --thumbnail and --timeline name folders.",
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a video, an image or a text")
    parser.add_argument("--json", action="store_true", help="print one JSON object a file and line")
    parser.add_argument("--explain", action="store_true", help="name the facial actions that weighed most (videos)")
    parser.add_argument(
        "--thumbnail", type=Path, metavar="FILE", help="write a loop of the best moment (.mp4, .webp, .gif)"
    )
    parser.add_argument("--duration", type=float, default=3.0, help="seconds of the loop (default: %(default)g)")
    parser.add_argument(
        "--size", type=int, default=480, help="longest side of the loop in pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--aspect", choices=ASPECTS, default="original", help="crop the loop around the face (default: %(default)s)"
    )
    parser.add_argument(
        "--timeline", type=Path, metavar="FILE", help="write a plot of the emotions over time (.png, .svg, .pdf)"
    )
    parser.add_argument("--model", help="name of a model in the store (default: the store's own)")
    parser.add_argument("--model-path", type=Path, help="checkpoint or model folder outside the store")
    parser.add_argument(
        "--model-store", type=Path, help="folder of the models (default: MODEL_STORE, else the shipped ones)"
    )
    parser.add_argument(
        "--prior",
        choices=PRIORS,
        default=DIARY,
        help="how often people show each emotion: mostly calm and happy, or all equally often (default: %(default)s)",
    )
    parser.add_argument(
        "--use-gpu", choices=("auto", "0", "1"), default="auto", help="use CUDA: auto (if there is one), 0 no, 1 yes"
    )
    return parser
