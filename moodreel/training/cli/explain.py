"""`explain MODEL IMAGE… --out DIR`: draw where in each face a model found evidence."""

import argparse
from pathlib import Path

from PIL import Image

from moodreel.errors import DataInvalid
from moodreel.media.image import IMAGE_FORMATS
from moodreel.training.cli.options import Commands, add_common, add_out, at_least, check_out
from moodreel.training.data.loading import DataContext
from moodreel.training.engine.device import resolve_device
from moodreel.training.evaluation.audiovisual_model import EvaluatedAudioVisualModel
from moodreel.training.evaluation.face_model import EvaluatedFaceModel
from moodreel.training.evaluation.open_models import open_models
from moodreel.training.experiment.recipe import STORE
from moodreel.training.explain.faces import attribute_faces, crop_kind, faces_of_dataset, find_faces
from moodreel.training.explain.render import draw_sheet

SHEET = "sheet.png"
MAX_SHEET_FACES = 24


def add_parser(commands: Commands) -> None:
    """Add the verb."""
    parser = commands.add_parser("explain", help="draw where in faces a model found evidence")
    parser.add_argument("model", help="a name in the store, or a model's folder")
    parser.add_argument("images", type=Path, nargs="*", metavar="IMAGE", help=IMAGE_FORMATS)
    parser.add_argument("--data", help="NAME:PATH of a data set of images, whose labels are shown too")
    help = "number of held-out images of --data (default: %(default)s)"
    parser.add_argument("--count", type=at_least(1), default=MAX_SHEET_FACES, help=help)
    parser.add_argument("--label", help="explain this label, not the predicted one")
    add_out(parser, "the folder to write to")
    add_common(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Draw a heat map of each face, and a sheet of them."""
    check_out(args.out, overwrite=args.overwrite)
    [model] = open_models([args.model], STORE, device=str(resolve_device(args.device)))
    assert isinstance(model, EvaluatedFaceModel | EvaluatedAudioVisualModel)
    context = DataContext(STORE, args.cache, workers=args.threads)
    kind = crop_kind(model.predictor)
    faces = find_faces(args.images, context.landmarker, kind)
    if args.data:
        faces += faces_of_dataset(args.data, context, kind, count=args.count)
    if not faces:
        raise DataInvalid("There is no face to explain; name images that show one, or --data NAME:PATH.")
    if len({face.name for face in faces}) < len(faces):
        raise DataInvalid("Two images have the same name, and their drawings would too; rename one.")
    maps = attribute_faces(model.predictor, faces, label=args.label)
    args.out.mkdir(parents=True, exist_ok=True)
    for face, each in zip(faces, maps, strict=True):
        Image.fromarray(draw_sheet([each])).save(args.out / f"{face.name}.png")
        print(f"{face.name}: {each.label} {each.probability:.0%}" + (f", truly {each.truth}" if each.truth else ""))
    Image.fromarray(draw_sheet(maps[:MAX_SHEET_FACES], model.info.name)).save(args.out / SHEET)
    print(f"{len(maps)} face{'s' if len(maps) > 1 else ''} and {SHEET} in {args.out}")
