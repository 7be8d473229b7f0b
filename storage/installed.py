"""Versions of what is installed, as provenance states them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version(package: str = "microtome") -> str:
    """Version of an installed package, or ``not installed``; by default this one's own."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
