"""Read labeled clips from one folder: those that a table lists, or clips of people who all talk calmly."""

from pathlib import Path

from moodreel.errors import DataInvalid
from moodreel.training.data.dataset import CLIPS
from moodreel.training.data.examples import Example, read_table
from moodreel.training.data.image_folder import EXTENSIONS

TABLE = "clips.csv"
"""Table next to the clips, with the columns file and label, and optionally trust."""
LOW_TRUST = "low trust"
"""Group of the clips whose trust is low: their labels are doubtful."""
TALKER_LABEL = "Neutral"
"""Label of every clip of a calm talker."""


def read_clip_table(folder: Path) -> tuple[Example, ...]:
    """Read the clips that `TABLE` lists; the group of each is its trust.

    Args:
        folder: Folder with the table; the clips are in it or in its subfolder `clips`.

    Raises:
        DataInvalid: The table cannot be read or is empty, a label is missing, or a clip is not there.
    """
    table = folder / TABLE
    examples, wrong = [], []
    for line in read_table(table, ("file", "label"), optional=("trust",)):
        name = line["file"].replace("\\", "/")
        file = next((path for path in (folder / name, folder / "clips" / name) if path.is_file()), None)
        if file is None or not line["label"]:
            wrong.append(f"{line['file']}: " + ("there is no such file" if file is None else "it has no label"))
            continue
        trust = line["trust"].lower()
        examples.append(Example(line["label"], file, group=f"{trust} trust" if trust else None))
    if wrong or not examples:
        raise DataInvalid(f"{table} needs a clip and a label in each row:\n  " + "\n  ".join(wrong or ["it is empty"]))
    return tuple(examples)


def read_talkers(folder: Path) -> tuple[Example, ...]:
    """Read all clips in a folder and its subfolders, of people who talk calmly. Raises DataInvalid if there is none."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    examples = tuple(Example(TALKER_LABEL, path) for path in sorted(files) if path.suffix.lower() in EXTENSIONS[CLIPS])
    if not examples:
        raise DataInvalid(f"{folder} holds no clips ({', '.join(sorted(EXTENSIONS[CLIPS]))}).")
    return examples
