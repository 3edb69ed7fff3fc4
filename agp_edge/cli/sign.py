"""`agp-edge sign`: the site file of a model, bound to its bytes and signed."""

from __future__ import annotations

import argparse

__all__ = ["HELP", "add_arguments", "run"]

HELP = "bind a site file to its model, and sign it"

EPILOG = """\
Writes MODEL.json (docs/site_file.md): the SHA-256 of MODEL, the settings that the file had before,
and with --key a signature over both. Without --key only the hash is written: it shows a corrupt or
swapped model, it does not show who wrote the file.

    agp-edge sign --new-key line.pem            makes line.pem (keep it secret) and line.pem.pub
    agp-edge sign engine.plan --key line.pem
    agp-edge score engine.plan IMAGES --verify line.pem.pub"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("model", metavar="MODEL", nargs="?", help=".onnx file or TensorRT plan")
    what.add_argument("--new-key", metavar="FILE", help="make a key pair: FILE and FILE.pub")
    parser.add_argument("--key", metavar="KEY", help="private key, made by --new-key")


def run(args: argparse.Namespace) -> int:
    """Make keys, or write the site file."""
    from agp_edge.manifest import read_manifest  # noqa: PLC0415  (NumPy stays out of --help)
    from agp_edge.signature import new_key, sign_site  # noqa: PLC0415
    from agp_edge.site import settings_for, write_site  # noqa: PLC0415

    if args.new_key is not None:
        private, public = new_key(args.new_key)
        print(f"private key: {private} (keep it secret)")
        print(f"public key:  {public} (goes to the line)")
        return 0
    read_manifest(args.model)  # not a model of ours: nothing to bind
    site = settings_for(args.model)
    if args.key is not None:
        site = sign_site(site, args.key)
    path = write_site(args.model, site)
    signed = "signed" if site.signature else "not signed"
    print(f"{path}: sha256 {site.model_sha256}, {signed}")
    return 0
