"""Import the libraries of the service before its workers are forked: they share the memory, and start sooner.

Only libraries, and only their import: what starts threads, such as loading a model, comes after the fork. A reload
reads the service's own code again.
"""

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

LIBRARIES = (
    "torch",
    "mediapipe",
    "cv2",
    "av",
    "PIL.Image",
    "pillow_heif",
    "tokenizers",
    "emoji",
    "sqlite_utils",
    "flask_smorest",
    "flask_socketio",
    "jwt",
)
"""The slowest and largest imports of `api.wsgi`."""
UNUSED = ("pandas", "requests", "websocket", "aiohttp", "opentelemetry")
"""What the libraries import where it is installed, and the service does not need: 45 MB. sqlite-utils imports pandas,
python-engineio the next three for its clients, redis the last."""


def import_libraries() -> None:
    """Import `LIBRARIES`."""
    with _replaced({**dict.fromkeys(UNUSED), **_matplotlib()}):
        for name in LIBRARIES:
            importlib.import_module(name)
    # The collector writes into every object that it visits, which would copy the shared memory into each worker.
    gc.collect()
    gc.freeze()


def _matplotlib() -> dict[str, ModuleType]:
    """Return empty modules for the plots that MediaPipe can draw: matplotlib takes 24 MB, and 0.3 s to import."""
    package, pyplot = ModuleType("matplotlib"), ModuleType("matplotlib.pyplot")
    package.pyplot = pyplot  # type: ignore[attr-defined]
    return {"matplotlib": package, "matplotlib.pyplot": pyplot}


@contextmanager
def _replaced(modules: dict[str, ModuleType | None]) -> Iterator[None]:
    """Replace modules that are not imported yet during a `with` block, in which importing one that is None fails."""
    replaced = {name: module for name, module in modules.items() if name not in sys.modules}
    sys.modules.update(replaced)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in replaced:
            del sys.modules[name]
