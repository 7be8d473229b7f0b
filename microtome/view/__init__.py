"""A local, read-only server that shows slides and what was found on them, out of the stores."""

from .library import Library, Shown, open_library
from .server import serve

__all__ = ["Library", "Shown", "open_library", "serve"]
