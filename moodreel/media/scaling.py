"""Compute the size of a scaled image or frame."""


def fit_within(size: tuple[float, float], max_side: int) -> tuple[int, int]:
    """Scale a (width, height) in pixels down so that neither side exceeds `max_side`; never up, never to zero."""
    scale = min(1.0, max_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def letterbox_scale(size: tuple[int, int], canvas: tuple[int, int]) -> float:
    """Return the factor that makes a (width, height) as large as fits into a canvas, with its own proportions."""
    return min(canvas[0] / size[0], canvas[1] / size[1])
