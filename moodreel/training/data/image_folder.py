"""Images, clips or recordings in one folder per label, as people keep them (torchvision's ImageFolder layout)."""

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from moodreel.errors import DataInvalid
from moodreel.training.data.dataset import AUDIO, CLIPS, IMAGES
from moodreel.training.data.examples import Example, describe_counts, read_table
from moodreel.training.data.label_mapping import map_label

logger = logging.getLogger(__name__)

EXTENSIONS: Mapping[str, frozenset[str]] = {
    IMAGES: frozenset({".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif", ".bmp", ".tif", ".tiff"}),
    CLIPS: frozenset({".mp4", ".mov", ".webm", ".mkv", ".avi", ".3gp", ".gif"}),
    AUDIO: frozenset({".wav", ".flac", ".ogg", ".mp3", ".m4a", ".aac"}),
}
"""File extensions by kind of media."""


def read_folders(
    folder: Path, media: str, *, labels: Sequence[str] | None = None, people: Path | None = None
) -> tuple[Example, ...]:
    """List the files in the folder of each label, and in its subfolders. Log how many files are left out.

    Args:
        folder: The folder with one folder for each label.
        media: One of `EXTENSIONS`.
        labels: The labels to read. The name of a folder is a label, in any case, or a synonym
            (`moodreel.emotions.LABEL_SYNONYMS`: "sadness" for "sad"). None reads every folder, with its name as label.
        people: CSV file with the columns file (relative to `folder`), person and optionally group. Without it all
            persons are unknown, and a split may have one of them on both sides.

    Raises:
        DataInvalid: No file is left, or `people` names files that are not there.
    """
    files, skipped = _list_by_label(folder, EXTENSIONS[media], labels)
    if not files:
        wanted = f"named {', '.join(labels)}" if labels else "named like the label"
        raise DataInvalid(
            f"{folder} holds no {media}. It needs a folder of {media} ({', '.join(sorted(EXTENSIONS[media]))}) for "
            f"each label, {wanted}. Left out, by number of files: {describe_counts(skipped)}."
        )
    if skipped:
        logger.warning("Left out, by number of files: %s.", describe_counts(skipped))
    person_of = _read_people(people, {name for name, _ in files}) if people else {}
    if len({label for _, label in files}) == 1:
        logger.warning("All %d %s have one label: %s.", len(files), media, files[0][1])
    examples = []
    for name, label in files:
        person, group = person_of.get(name, ("", ""))
        examples.append(Example(label, folder / name, person or None, group=group or None))
    return tuple(examples)


def read_groups(file: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Read which examples belong to which group; an example may be in several, or in none.

    Args:
        file: CSV file with the columns file and group.
        names: Files of the N examples, relative to their folder, with slashes.

    Returns:
        bool (N,) by group.

    Raises:
        DataInvalid: The file cannot be read, or names none of the examples.
    """
    row_of = {name: row for row, name in enumerate(names)}
    groups: dict[str, np.ndarray] = {}
    unknown = 0
    for line in read_table(file, ("file", "group")):
        row = row_of.get(line["file"].replace("\\", "/"))
        if row is None:
            unknown += 1
        elif line["group"]:
            groups.setdefault(line["group"], np.zeros(len(names), bool))[row] = True
    if not groups:
        raise DataInvalid(f"{file} gives none of the pictures a group; write their names as in {names[0]}.")
    ungrouped = len(names) - int(np.any(list(groups.values()), axis=0).sum())
    if unknown or ungrouped:
        logger.warning("%s: %d of its files are not here; %d pictures have no group.", file.name, unknown, ungrouped)
    return dict(sorted(groups.items()))


def _list_by_label(
    folder: Path, extensions: Collection[str], labels: Sequence[str] | None
) -> tuple[list[tuple[str, str]], Counter[str]]:
    """List files, relative to the folder, with their labels; count the files that are left out."""
    files: list[tuple[str, str]] = []
    skipped: Counter[str] = Counter()
    if not folder.is_dir():
        raise DataInvalid(f"{folder} is not a folder; name one that has a folder for each label.")
    for subfolder in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if subfolder.name != subfolder.name.encode(errors="replace").decode():
            raise DataInvalid(f"The name of the folder {str(subfolder)!a} is not UTF-8; rename it.")
        label = subfolder.name if labels is None else map_label(subfolder.name, labels)
        for path in sorted(path for path in subfolder.rglob("*") if path.is_file() and not path.name.startswith(".")):
            if label is None:
                skipped[subfolder.name] += 1
            elif path.suffix.lower() not in extensions:
                skipped[f"{subfolder.name}, {path.suffix or 'no extension'}"] += 1
            else:
                files.append((path.relative_to(folder).as_posix(), label))
    return files, skipped


def _read_people(file: Path, names: set[str]) -> dict[str, tuple[str, str]]:
    """Read person and group of each file; "" where unknown."""
    table = read_table(file, ("file", "person"), optional=("group",))
    people = {line["file"].replace("\\", "/"): (line["person"], line["group"]) for line in table}
    if missing := sorted(people.keys() - names):
        listed = "\n  ".join(missing[:20]) + (f"\n  and {len(missing) - 20} more" if len(missing) > 20 else "")
        raise DataInvalid(f"{file} names files that are not there; write their names as in {min(names)}:\n  {listed}")
    return people
