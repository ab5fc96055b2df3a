"""`python -m moodreel CLIP…`: the same analysis as `/predict` and `/thumbnail`, with no server."""

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path

from tqdm import tqdm

from moodreel.analysis import Analyser, Analysis
from moodreel.boomerang import OUTPUTS
from moodreel.errors import MoodreelError

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
        analyser = Analyser.load(options.model_store, model_path=options.model_path, use_gpu=options.use_gpu)
    except MoodreelError as error:
        print(f"moodreel: {error}", file=sys.stderr)
        return 2
    failed = 0
    for clip in tqdm(options.clips, unit="clip", disable=len(options.clips) == 1 or None, position=1):
        try:
            _run(analyser, clip, options)
        except (MoodreelError, OSError) as error:
            failed += 1
            reason = error.strerror if isinstance(error, OSError) else error
            _say(json.dumps({"clip": str(clip), "error": str(reason)}) if options.json else f"{clip}: {reason}")
    return 1 if failed else 0


def _run(analyser: Analyser, clip: Path, options: argparse.Namespace) -> None:
    data = clip.read_bytes()
    with tqdm(desc=clip.name, unit=" frames", leave=False, disable=None) as bar:

        def show(time: float) -> None:
            bar.set_postfix_str(f"{time:.1f} s")
            bar.update()

        analysis = analyser.analyse(data, model=options.model, progress=show)
    _say(json.dumps(_as_json(clip, analysis)) if options.json else f"{clip}: {_in_words(analysis)}")
    if options.timeline:
        from moodreel import plot  # matplotlib takes half a second to import

        plot.timeline(analysis, _output(options.timeline, clip, "png", options.clips), title=clip.name)
    if options.thumbnail:
        path = _output(options.thumbnail, clip, "mp4", options.clips)
        cover = analyser.cover(
            data, duration=options.duration, size=options.size, output=path.suffix[1:], model=options.model
        )
        path.write_bytes(cover.loop.data)


def _in_words(analysis: Analysis) -> str:
    others = ", ".join(f"{label} {share:.0%}" for label, share in analysis.probabilities.items())
    doubt = "" if analysis.certain else f"; not certain ({analysis.quality.reason}): {analysis.quality.tip}"
    return (
        f"{analysis.emotion} ({analysis.confidence:.0%}) at {analysis.peak:.1f} of {analysis.duration:.1f} s; "
        f"{others}; face in {analysis.face_coverage:.0%} of {analysis.frames_analysed} frames{doubt}"
    )


def _as_json(clip: Path, analysis: Analysis) -> dict:
    values = dataclasses.asdict(dataclasses.replace(analysis, model=None))  # type: ignore[arg-type]
    model = {name: getattr(analysis.model, name) for name in ("name", "version", "sha256")}
    return {"clip": str(clip), **values, "model": model}


def _output(wanted: Path, clip: Path, kind: str, clips: list[Path]) -> Path:
    """Choose the file to write: `wanted` itself for one clip, a file in the folder `wanted` for several."""
    if len(clips) == 1:
        return wanted
    wanted.mkdir(parents=True, exist_ok=True)
    return wanted / f"{clip.stem}.{kind}"


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stdout)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m moodreel", description="What the face in a clip showed, and its cover.")
    parser.add_argument("clips", nargs="+", type=Path, metavar="CLIP")
    parser.add_argument("--thumbnail", type=Path, metavar="FILE", help="write the loop (.mp4, .webp or .gif)")
    parser.add_argument("--timeline", type=Path, metavar="FILE", help="write a plot of the emotions over time (.png)")
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
