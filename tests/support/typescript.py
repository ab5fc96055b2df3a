"""Run npm's tools for TypeScript: the compiler, and the generator of types from an OpenAPI document."""

import shutil
import subprocess
from pathlib import Path

PACKAGES = ("typescript@5.9.3", "openapi-typescript@7.13.0")
INSTALL_SECONDS = 240


class TypeScript:
    """A folder with TypeScript's tools.

    Args:
        folder: Where to install them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "package.json").write_text('{"type": "module", "private": true}')
        self.problem = self._install()

    def run(self, tool: str, *arguments: str | Path) -> str:
        """Run one of the tools, or `node`, and return its output."""
        local = self.folder / "node_modules" / ".bin" / tool
        program = local if local.exists() else tool
        done = subprocess.run(
            [program, *arguments], cwd=self.folder, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def compile(self, file: str) -> None:
        """Compile a file strictly, to a module beside it."""
        options = "--strict --target es2022 --module nodenext --lib es2022,dom,dom.iterable"
        self.run("tsc", *options.split(), file)

    def _install(self) -> str | None:
        """Return why the tools cannot be used; None if they can."""
        if not shutil.which("npm") or not shutil.which("node"):
            return "needs Node.js with npm"
        command = ["npm", "install", "--no-audit", "--no-fund", "--no-save", *PACKAGES]
        try:
            done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=INSTALL_SECONDS)
        except subprocess.TimeoutExpired:
            return "npm's registry does not answer"
        return f"npm cannot install: {done.stderr[-300:]}" if done.returncode else None
