"""Compute the size of a scaled-down image or frame."""


def fit_within(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """Scale a (width, height) in pixels down so that neither side exceeds `max_side`; never up, never to zero."""
    scale = min(1.0, max_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
