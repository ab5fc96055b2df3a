"""The data set type of training and evaluation, for any media and any source."""

from dataclasses import dataclass, replace

import numpy as np

from moodreel.emotions import EIGHT_TO_SEVEN
from moodreel.errors import DataInvalid
from moodreel.training.data.examples import Example
from moodreel.training.data.splits import Split, split

IMAGES, CLIPS, AUDIO = "images", "clips", "audio"
"""Kinds of media; clips are videos with or without sound."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """N labeled examples of one kind of media.

    Attributes:
        name: Name in reports.
        media: `IMAGES`, `CLIPS` or `AUDIO`.
        labels: C names, in the set's own order.
        examples: The N examples.
        license: License of the set.
        commercial: Whether weights trained on it may be used commercially.
        targets: float32 (N, C), soft labels from votes; None where each example has one label.
        has_majority: bool (N,), whether one label has over half of the votes; None without votes.
        published_split: The split that the set was published with; None where it has none.
        copies: bool (N,), whether a held-out example shows the same photograph as a training example; None where they
            have not been compared.
        faces: Images that recordings are paired with by emotion (`pair_with_faces`); None for any other set.
    """

    name: str
    media: str
    labels: tuple[str, ...]
    examples: tuple[Example, ...]
    license: str
    commercial: bool = True
    targets: np.ndarray | None = None
    has_majority: np.ndarray | None = None
    published_split: Split | None = None
    copies: np.ndarray | None = None
    faces: "Dataset | None" = None

    @property
    def noun(self) -> str:
        """What the examples are called after a number: "recordings" for audio."""
        return "recordings" if self.media == AUDIO else self.media

    @property
    def truth(self) -> np.ndarray:
        """Label index of each example, int64 (N,)."""
        return np.array([self.labels.index(example.label) for example in self.examples], np.int64)

    @property
    def groups(self) -> dict[str, np.ndarray]:
        """Members of each group, bool (N,), by the name of the group."""
        names = sorted({example.group for example in self.examples if example.group})
        return {name: np.array([example.group == name for example in self.examples]) for name in names}

    def split(self, share: float = 0.2, *, by: str = "", seed: int = 0) -> Split:
        """Return the published split where there is one and `by` is "", else hold out a share (`splits.split`).

        Args:
            share: Fraction of the examples that is held out.
            by: "person", "random" (which leaks), or "" for the best that is possible.
            seed: Seed of the split.
        """
        if self.published_split is not None and not by:
            return self.published_split
        return split(self.examples, share, by=by or "person", seed=seed)


def pair_with_faces(recordings: Dataset, faces: Dataset) -> Dataset:
    """Pair each recording with images of faces of the same emotion (synthetic pairing).

    Face and voice are then of different people: a network can learn from it to fuse two modalities, but not how the
    face and the voice of one person are related.

    Raises:
        DataInvalid: These are not recordings and images with a published split, or the images lack a label.
    """
    if recordings.media != AUDIO or faces.media != IMAGES or faces.published_split is None:
        raise DataInvalid("Recordings are paired with pictures of faces; name a set of these with a published split.")
    needed = {EIGHT_TO_SEVEN.get(label, label) for label in recordings.labels}
    if missing := sorted(needed - set(faces.labels)):
        raise DataInvalid(f"{faces.name} has no faces for {', '.join(missing)}; take another set of faces.")
    return replace(
        recordings,
        name=f"synthetic pairing of {recordings.name} with faces of {faces.name}",
        license=f"{recordings.license}; {faces.license}",
        commercial=recordings.commercial and faces.commercial,
        faces=faces,
    )
