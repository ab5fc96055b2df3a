"""Pictures, clips or recordings in a folder for each label, as people keep them."""

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from moodreel.emotions import LABEL_SYNONYMS, SEVEN_TO_FIVE
from moodreel.errors import DataInvalid
from moodreel.training.data.examples import Example, read_table

log = logging.getLogger(__name__)

KINDS: Mapping[str, frozenset[str]] = {
    "pictures": frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}),
    "clips": frozenset({".mp4", ".mov", ".webm", ".mkv", ".avi", ".3gp", ".gif"}),
    "recordings": frozenset({".wav", ".flac", ".ogg", ".mp3", ".m4a", ".aac"}),
}
"""What may be in the folders, by the endings of their names."""


def read_folders(
    folder: Path, kind: str, *, labels: Sequence[str] | None = None, people: Path | None = None
) -> tuple[Example, ...]:
    """List what lies in the folders of each label, and in folders in those.

    kind: one of `KINDS`.
    labels: which to take; a folder counts for one of them by its name, or by the like of it (`moodreel.emotions`:
        "sadness" for "sad"), in any case. None takes every folder, by its own name.
    people: a csv file with the columns file (relative to the folder), person and, if wished, group. Without it nobody
        knows who is in them, and a split by person cannot be made.
    What is left out is logged. Raises DataInvalid where nothing is left, or where `people` names what is not there.
    """
    listed, left_out = list_by_label(folder, KINDS[kind], labels)
    if not listed:
        wanted = f"named {', '.join(labels)}" if labels else "named by what they show"
        raise DataInvalid(
            f"{folder} holds no {kind}. It needs a folder of {kind} ({', '.join(sorted(KINDS[kind]))}) for each label, "
            f"{wanted}. Left out, by number of files: {describe(left_out)}."
        )
    if left_out:
        log.warning("Left out, by number of files: %s.", describe(left_out))
    who = _read_people(people, {name for name, _ in listed}) if people else {}
    if len({label for _, label in listed}) == 1:
        log.warning("All %d %s have one label: %s.", len(listed), kind, listed[0][1])
    return tuple(Example(label, folder / name, *_person(who.get(name))) for name, label in listed)


def list_by_label(
    folder: Path, endings: Collection[str], labels: Sequence[str] | None
) -> tuple[list[tuple[str, str]], Counter[str]]:
    """List files by their names relative to the folder, with slashes, and their labels; and count what is left out."""
    listed: list[tuple[str, str]] = []
    left_out: Counter[str] = Counter()
    if not folder.is_dir():
        raise DataInvalid(f"There is no folder {folder}.")
    for own in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        label = own.name if labels is None else _meant(own.name, labels)
        for path in sorted(path for path in own.rglob("*") if path.is_file() and not path.name.startswith(".")):
            if label is None:
                left_out[own.name] += 1
            elif path.suffix.lower() not in endings:
                left_out[f"{own.name}, {path.suffix or 'no ending'}"] += 1
            else:
                listed.append((path.relative_to(folder).as_posix(), label))
    return listed, left_out


def describe(left_out: Counter[str]) -> str:
    return "; ".join(f"{what}: {count}" for what, count in left_out.items()) or "nothing"


def _meant(name: str, labels: Sequence[str]) -> str | None:
    """The one of the labels that a folder's name means, or None."""
    plain = name.strip().lower()
    exact = [label for label in labels if label.lower() == plain]
    if exact:
        return exact[0]
    seven = LABEL_SYNONYMS.get(plain)
    if seven is None:
        return None
    like = [label for label in labels if seven in (LABEL_SYNONYMS.get(label.lower()), label)]
    if like:
        return like[0]
    return SEVEN_TO_FIVE[seven] if SEVEN_TO_FIVE[seven] in labels else None


def _read_people(file: Path, names: set[str]) -> dict[str, tuple[str, str]]:
    table = read_table(file, ("file", "person"), optional=("group",))
    who = {line["file"].replace("\\", "/"): (line["person"], line["group"]) for line in table}
    if strangers := sorted(who.keys() - names):
        shown = "\n  ".join(strangers[:20]) + (f"\n  and {len(strangers) - 20} more" if len(strangers) > 20 else "")
        raise DataInvalid(f"{file} names files that are not there; they are named like {min(names)}:\n  {shown}")
    return who


def _person(who: tuple[str, str] | None) -> tuple[str | None, None, str | None]:
    """Person, clip and group, as `Example` takes them."""
    person, group = who or ("", "")
    return person or None, None, group or None
