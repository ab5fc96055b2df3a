"""Format results as Markdown."""

from collections.abc import Iterable, Sequence


def format_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """Format a table whose columns are also aligned as plain text.

    Args:
        head: Name of each column.
        rows: The cells of each row.
        left: Number of first columns that are text; the others are numbers, aligned to the right.
    """
    lines = [tuple(head), *map(tuple, rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    aligns = ["<" if at < left else ">" for at in range(len(head))]
    rule = [f"{':' if align == '>' else '-':->{width}}" for align, width in zip(aligns, widths, strict=True)]
    return "\n".join(
        f"| {' | '.join(f'{cell:{align}{width}}' for cell, align, width in zip(line, aligns, widths, strict=True))} |"
        for line in (lines[0], rule, *lines[1:])
    )
