"""Where the compiler's templates and the runtime headers lie on disk.

A source checkout keeps `templates/` and `runtime/` beside the package, where they are easy to edit and where the
runtime compiles and tests on its own. A wheel carries the same two folders inside the package as `_templates` and
`_runtime` (see `pyproject.toml`). Nothing else in the compiler needs to know which of the two it runs from.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _folder(name: str) -> Path:
    """The folder `name`: the checkout's where the package lies in one, else the copy inside the wheel."""
    packaged = _PACKAGE / f"_{name}"
    if packaged.is_dir():
        return packaged
    checkout = _PACKAGE.parent / name
    if checkout.is_dir():
        return checkout
    raise FileNotFoundError(
        f"tesserac's {name}/ folder is neither at {packaged} nor at {checkout}; the installation is incomplete"
    )


def templates_dir() -> Path:
    """The folder of Jinja templates: `cpu/`, `cuda/` and `project/`. Raises FileNotFoundError if it is missing."""
    return _folder("templates")


def runtime_dir() -> Path:
    """The folder of C++ and CUDA runtime headers. Raises FileNotFoundError if it is missing."""
    return _folder("runtime")
