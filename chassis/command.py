"""The command `troika SERVICE VERB …`: hands over to that service's own command line.

A service may name verbs of its own that stand alone (`WORDS` of its package): `troika VERB …` then means it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import pkgutil
import sys


def services() -> list[str]:
    """Services that are installed here: an image holds one, a checkout all."""
    spec = importlib.util.find_spec("services")
    folders = spec.submodule_search_locations if spec else None
    return sorted(module.name for module in pkgutil.iter_modules(folders or []) if module.ispkg)


def words() -> dict[str, str]:
    """Verbs that stand alone, and the service of each."""
    return {word: s for s in services() for word in getattr(importlib.import_module(f"services.{s}"), "WORDS", ())}


def main() -> None:
    """Reads only the first word; all others belong to the service."""
    alone = words()
    parser = argparse.ArgumentParser(prog="troika", epilog="Each service lists its own verbs: troika SERVICE -h")
    parser.add_argument("service", choices=[*services(), *sorted(alone)])
    word = parser.parse_args(sys.argv[1:2]).service
    service = alone.get(word, word)
    sys.argv = [f"troika {service}", *sys.argv[1 if word in alone else 2 :]]
    importlib.import_module(f"services.{service}.__main__").main()
