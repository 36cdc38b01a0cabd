"""The command `troika SERVICE VERB …`: hands over to that service's own command line."""

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


def main() -> None:
    """Reads only the first word; all others belong to the service."""
    parser = argparse.ArgumentParser(prog="troika", epilog="Each service lists its own verbs: troika SERVICE -h")
    parser.add_argument("service", choices=services())
    service = parser.parse_args(sys.argv[1:2]).service
    sys.argv = [f"troika {service}", *sys.argv[2:]]
    importlib.import_module(f"services.{service}.__main__").main()
