"""Builds what those need who call Troika: the client's wheel, and the contracts and documents of its doors.

    python client/build.py dist

troika_client-<version>-py3-none-any.whl  the stubs of gen/ and the package beside this file
troika.binpb                              all contracts with their comments as one descriptor set, for grpcurl, protoc and buf;
                                          packages for Go and Java are named in it, and no import is left to be found
troika-proto.tar.gz                       the same contracts to read
openapi.json, asyncapi.yaml               the HTTP doors and the messages of webhooks and bus
"""

from __future__ import annotations

import argparse
import importlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from google.protobuf import any_pb2, descriptor_pb2, duration_pb2
from google.rpc import error_details_pb2

ROOT = Path(__file__).resolve().parent.parent
CLIENT = ROOT / "client"
sys.path.insert(0, str(ROOT / "proto"))
# What programs in Go import the stubs by; theirs to map to where they keep them.
GO_MODULE = "troika"
RULES = "buf/validate/validate.proto"


def wheel(out: Path) -> None:
    """Builds the wheel from a copy in which the stubs lie beside the package, as setuptools wants them."""
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch, "client")
        shutil.copytree(CLIENT, tree, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
        for stubs in ("troika", "buf"):
            shutil.copytree(ROOT / "gen" / stubs, tree / stubs, ignore=shutil.ignore_patterns("__pycache__"))
        (tree / "troika" / "py.typed").touch()
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--no-build-isolation", "--wheel-dir", str(out), str(tree)], check=True)


def contracts(out: Path) -> None:
    """Writes the descriptor set, without the rules of protovalidate: other languages need not find their definition."""
    image = Path(out, "troika.binpb")
    sources = sorted(path.relative_to(ROOT / "proto").as_posix() for path in (ROOT / "proto" / "troika").rglob("*.proto"))
    with tempfile.TemporaryDirectory() as scratch:
        rules = Path(scratch, "rules.binpb")
        importlib.import_module("generate").write_validate_descriptors(rules)
        protoc = [sys.executable, "-m", "grpc_tools.protoc", f"--descriptor_set_in={rules}", f"-I{ROOT / 'proto'}"]
        subprocess.run([*protoc, "--include_imports", "--include_source_info", f"-o{image}", *sources], check=True)
    files = descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes())
    # Nobody has registered the rules here, so they are what this program does not know.
    files.DiscardUnknownFields()
    kept = [file for file in files.file if file.name != RULES]
    for file in kept:
        unneeded = [number for number, name in enumerate(file.dependency) if name == RULES]
        for number in reversed(unneeded):
            del file.dependency[number]
        if file.package.startswith("troika."):
            _, service, version = file.package.split(".")
            file.options.go_package = f"{GO_MODULE}/{service}/{version};{service}{version}"
            file.options.java_package = f"io.{file.package}"
            file.options.java_multiple_files = True
    # What errors carry beside their text, so that tools can show it.
    for known in (any_pb2, duration_pb2, error_details_pb2):
        if known.DESCRIPTOR.name not in {file.name for file in kept}:
            known.DESCRIPTOR.CopyToProto(found := descriptor_pb2.FileDescriptorProto())
            kept.insert(0, found)
    image.write_bytes(descriptor_pb2.FileDescriptorSet(file=kept).SerializeToString())


def sources(out: Path) -> None:
    """Packs the .proto files."""
    with tarfile.open(out / "troika-proto.tar.gz", "w:gz") as archive:
        for path in sorted((ROOT / "proto" / "troika").rglob("*.proto")):
            content = path.read_bytes()
            member = tarfile.TarInfo(path.relative_to(ROOT / "proto").as_posix())
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def main() -> None:
    """Reads the folder's name and fills it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to fill")
    out: Path = parser.parse_args().out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    wheel(out)
    contracts(out)
    sources(out)
    for name in ("openapi.json", "asyncapi.yaml"):
        shutil.copy(ROOT / "docs" / "reference" / name, out / name)
    print("\n".join(f"{path.stat().st_size:>10,}  {path.name}" for path in sorted(out.iterdir())))


if __name__ == "__main__":
    main()
