"""Writes C++ stubs of TensorRT's implementation classes: reads NvInferImpl.h, writes a header.

    python tensorrt_stubs.py NvInferImpl.h stubs.hpp

Every pure virtual function of VRuntime, VCudaEngine and VExecutionContext gets a body that ends the
program with its name, so that a fake overrides only what our code is meant to call.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

CLASSES = ("VRuntime", "VCudaEngine", "VExecutionContext")
PURE_VIRTUAL = re.compile(r"virtual\s+([^;{}]*?)\s*noexcept\s*=\s*0;")
NAME = re.compile(r"(\w+)\(")


def stub(header: str, name: str) -> str:
    """The C++ text of a class that overrides each pure virtual function of `name`."""
    pattern = rf"^class {name} : public VRoot\n{{(.*?)^}};"
    match = re.search(pattern, header, re.DOTALL | re.MULTILINE)
    if match is None:
        raise SystemExit(f"there is no class {name} in the header")
    lines = [f"class {name}Stub : public {name} {{", " public:"]
    for declaration in PURE_VIRTUAL.findall(match.group(1)):
        function = NAME.search(declaration)
        if function is None:
            raise SystemExit(f"{name}: '{declaration}' is no function")
        lines.append(f'  {" ".join(declaration.split())} noexcept override '
                     f'{{ unexpected("{name}::{function.group(1)}"); }}')  # fmt: skip
    return "\n".join([*lines, "};"])


def main() -> None:
    """Read the first argument, write the second."""
    source, target = map(Path, sys.argv[1:])
    header = source.read_text(encoding="utf-8")
    parts = [
        "// Made by tensorrt_stubs.py.",
        "#pragma once",
        "#include <NvInferRuntime.h>",
        "#include <cstdio>",
        "#include <cstdlib>",
        "namespace nvinfer1::apiv {",
        "[[noreturn]] inline void unexpected(const char* function) {",
        '  std::fprintf(stderr, "%s was called and is not expected\\n", function);',
        "  std::abort();",
        "}",
        *(stub(header, name) for name in CLASSES),
        "}  // namespace nvinfer1::apiv",
        "",
    ]
    target.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
