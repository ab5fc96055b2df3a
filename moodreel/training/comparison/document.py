"""A report as what it is made of, to be written as a page or as Markdown: the same words and numbers in both."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Answer:
    """What a reader came for: the first sentence, and those that bear it out."""

    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Command:
    text: str


@dataclass(frozen=True)
class Table:
    """caption: what it shows. The first cell of each row names it."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, eq=False)
class Plot:
    """name: of its file, of letters, digits and hyphens. alt: what it shows, in words."""

    name: str
    alt: str
    figure: Figure


@dataclass(frozen=True, eq=False)
class Plots:
    """Pictures side by side where there is room."""

    plots: tuple[Plot, ...]


Block = Heading | Paragraph | Answer | Command | Table | Plots


@dataclass(frozen=True, eq=False)
class Document:
    title: str
    blocks: Sequence[Block]

    @property
    def plots(self) -> list[Plot]:
        return [plot for block in self.blocks if isinstance(block, Plots) for plot in block.plots]
