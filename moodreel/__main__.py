"""`python -m moodreel FILE…`: the same as `/predict`, `/thumbnail`, `/api/detect` and `/api/text`, with no server."""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from moodreel.errors import MoodreelError, UnsupportedMedia
from moodreel.media.image import is_image
from moodreel.models.predictor import ModelInfo
from moodreel.pipelines.boomerang import OUTPUTS
from moodreel.pipelines.engine import Engine
from moodreel.pipelines.image import DetectedFace, ImagePipeline, ImageResult
from moodreel.pipelines.text import TextPipeline, TextResult
from moodreel.pipelines.video import VideoPipeline, VideoResult

TEXTS = (".txt", ".md")
"""Endings of files that hold a text."""

STORE = Path(__file__).resolve().parent.parent / "model_store"


def main(arguments: list[str] | None = None) -> int:
    """Analyse each clip; return 0 when all were, 1 when one was refused."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.timeline and len(options.clips) == 1 and options.timeline.suffix not in (".png", ".svg", ".pdf"):
        parser.error("--timeline ends in .png, .svg or .pdf")
    if options.thumbnail and len(options.clips) == 1 and options.thumbnail.suffix[1:] not in OUTPUTS:
        parser.error("--thumbnail ends in .mp4, .webp or .gif")
    try:
        texts, others = _sort(options.clips)
        store, gpu = options.model_store, options.use_gpu
        reader = TextPipeline.load(store, use_gpu=gpu) if texts else None
        engine = Engine.load(store, model_path=options.model_path, use_gpu=gpu) if others else None
    except MoodreelError as error:
        print(f"moodreel: {error}", file=sys.stderr)
        return 2
    failed = 0
    for clip in tqdm(options.clips, unit="clip", disable=len(options.clips) == 1 or None, position=1):
        try:
            if reader is not None and clip in texts:
                _run_text(reader, clip, options)
            elif engine is not None:
                _run(engine, clip, options)
        except (MoodreelError, OSError) as error:
            failed += 1
            reason = error.strerror if isinstance(error, OSError) else error
            _say(json.dumps({"clip": str(clip), "error": str(reason)}) if options.json else f"{clip}: {reason}")
    return 1 if failed else 0


def _sort(paths: list[Path]) -> tuple[set[Path], set[Path]]:
    """Tell texts, by their endings, from clips and pictures."""
    texts = {path for path in paths if path.suffix.lower() in TEXTS}
    return texts, set(paths) - texts


def _run(engine: Engine, clip: Path, options: argparse.Namespace) -> None:
    data = clip.read_bytes()
    if is_image(data):
        return _run_picture(engine, clip, data, options)
    pipeline = VideoPipeline(engine)
    with tqdm(desc=clip.name, unit=" frames", leave=False, disable=None) as bar:

        def show(time: float) -> None:
            bar.set_postfix_str(f"{time:.1f} s")
            bar.update()

        analysis = pipeline.predict(data, model=options.model, explain=options.explain, progress=show)
    _say(json.dumps(_as_json(clip, analysis)) if options.json else f"{clip}: {_in_words(analysis)}")
    if options.timeline:
        from moodreel.pipelines import timeline_plot

        timeline_plot.timeline(analysis, _output(options.timeline, clip, "png", options.clips), title=clip.name)
    if options.thumbnail:
        path = _output(options.thumbnail, clip, "mp4", options.clips)
        cover = pipeline.thumbnail(
            data, duration=options.duration, size=options.size, output=path.suffix[1:], model=options.model
        )
        path.write_bytes(cover.boomerang.data)


def _run_picture(engine: Engine, path: Path, data: bytes, options: argparse.Namespace) -> None:
    if options.thumbnail or options.timeline:
        raise UnsupportedMedia("A picture has no loop and no timeline: leave --thumbnail and --timeline out.")
    detection = ImagePipeline(engine).predict(data, model=options.model)
    _say(json.dumps(_picture_as_json(path, detection)) if options.json else f"{path}: {_picture_in_words(detection)}")


def _run_text(reader: TextPipeline, path: Path, options: argparse.Namespace) -> None:
    if options.thumbnail or options.timeline:
        raise UnsupportedMedia("A text has no loop and no timeline: leave --thumbnail and --timeline out.")
    [reading] = reader.predict([path.read_text(encoding="utf-8", errors="replace")], model=options.model)
    _say(json.dumps(_text_as_json(path, reading)) if options.json else f"{path}: {_text_in_words(reading)}")


def _in_words(analysis: VideoResult) -> str:
    return (
        f"{analysis.emotion} ({analysis.confidence:.0%}) at {analysis.peak:.1f} of {analysis.duration:.1f} s; "
        f"{_shares(analysis.probabilities)}; face in {analysis.face_coverage:.0%} of {analysis.frames_analysed} frames"
        f"{_doubt(analysis)}{_why(analysis)}"
    )


def _picture_in_words(detection: ImageResult) -> str:
    if not detection.faces:
        return "no face"
    faces, largest = len(detection.faces), detection.faces[0]
    of = "1 face" if faces == 1 else f"the largest of {faces} faces"
    return f"{largest.emotion} ({largest.confidence:.0%}); {_shares(largest.probabilities)}; {of}{_doubt(largest)}"


def _text_in_words(reading: TextResult) -> str:
    doubt = "" if reading.language_supported else f"; a guess, since it is not in English ({reading.language})"
    return f"{reading.label} ({reading.score:.0%}); {_shares(reading.scores)}{doubt}"


def _shares(probabilities: Mapping[str, float]) -> str:
    return ", ".join(f"{label} {share:.0%}" for label, share in probabilities.items())


def _doubt(answer: VideoResult | DetectedFace) -> str:
    return "" if answer.certain else f"; not certain ({answer.quality.reason}): {answer.quality.tip}"


def _why(analysis: VideoResult) -> str:
    return f"; {analysis.explanation.text}" if analysis.explanation else ""


def _as_json(clip: Path, analysis: VideoResult) -> dict:
    values = dataclasses.asdict(dataclasses.replace(analysis, model=None))  # type: ignore[arg-type]
    return {"clip": str(clip), **values, "model": _model(analysis.model)}


def _picture_as_json(path: Path, detection: ImageResult) -> dict:
    return {
        "picture": str(path),
        "emotion": detection.emotion,
        "confidence": detection.confidence,
        "all_emotions": detection.all_emotions,
        "faces": [dataclasses.asdict(face) for face in detection.faces],
        "width": detection.width,
        "height": detection.height,
        "model": _model(detection.model),
    }


def _text_as_json(path: Path, reading: TextResult) -> dict:
    values = dataclasses.asdict(dataclasses.replace(reading, model=None))  # type: ignore[arg-type]
    return {"text": str(path), **values, "model": _model(reading.model)}


def _model(model: ModelInfo) -> dict[str, str]:
    return {name: getattr(model, name) for name in ("name", "version", "sha256")}


def _output(wanted: Path, clip: Path, kind: str, clips: list[Path]) -> Path:
    """Choose the file to write: `wanted` itself for one clip, a file in the folder `wanted` for several."""
    if len(clips) == 1:
        return wanted
    wanted.mkdir(parents=True, exist_ok=True)
    return wanted / f"{clip.stem}.{kind}"


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stdout)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m moodreel",
        description="What the face in a clip or picture showed, and its cover; what the words of a .txt show.",
    )
    parser.add_argument("clips", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--thumbnail", type=Path, metavar="FILE", help="write the loop (.mp4, .webp or .gif)")
    parser.add_argument("--timeline", type=Path, metavar="FILE", help="write a plot of the emotions over time (.png)")
    parser.add_argument("--explain", action="store_true", help="name the facial movements that weighed most (clips)")
    parser.add_argument("--json", action="store_true", help="one JSON object a clip and line")
    parser.add_argument("--duration", type=float, default=3.0, help="seconds of the loop (default 3)")
    parser.add_argument("--size", type=int, default=480, help="longest side of the loop in pixels (default 480)")
    parser.add_argument("--model", help="a model of the store")
    parser.add_argument("--model-path", type=Path, help="a checkpoint or model folder from elsewhere")
    parser.add_argument("--model-store", type=Path, default=STORE)
    parser.add_argument("--use-gpu", choices=("auto", "0", "1"), default="auto")
    parser.epilog = "With several clips, --thumbnail and --timeline name folders."
    return parser


def _hush_native_libraries() -> None:
    """Keep what C++ writes off the terminal: MediaPipe greets with warnings that no setting silences."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device, not a path
        os.dup2(nowhere.fileno(), 2)


if __name__ == "__main__":
    _hush_native_libraries()
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
