"""A document as Markdown, its pictures beside it."""

import re

from moodreel.training.comparison.document import Answer, Block, Command, Document, Heading, Paragraph, Plots, Table

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~$&])")


def as_markdown(document: Document) -> str:
    """Write a document as Markdown. Names in it are shown as they are: no sign of theirs is markup."""
    return "\n\n".join([f"# {escape(document.title)}", *(_block(block) for block in document.blocks)]) + "\n"


def escape(text: str) -> str:
    """Make text stand for itself, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _block(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {escape(text)}"
        case Paragraph(text):
            return escape(text)
        case Command(text):
            return "    " + " ".join(text.split("\n"))
        case Answer(sentences):
            first, *others = map(escape, sentences)
            return "\n".join([f"**{first}**", *(["", *(f"- {sentence}" for sentence in others)] if others else [])])
        case Table():
            return _table(block)
        case Plots(plots):
            return "\n".join(f"![{escape(plot.alt)}]({plot.name}.png)" for plot in plots)


def _table(table: Table) -> str:
    lines = [table.head, ("---",) + ("---:",) * (len(table.head) - 1)]
    head, rule = ("| " + " | ".join(map(escape, lines[0])) + " |", "| " + " | ".join(lines[1]) + " |")
    rows = ["| " + " | ".join(map(escape, row)) + " |" for row in table.rows]
    return "\n".join([escape(table.caption), "", head, rule, *rows])
