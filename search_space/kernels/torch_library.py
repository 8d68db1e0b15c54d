"""Our operators as a library of PyTorch's, for programs that don't import this package."""

from __future__ import annotations

from pathlib import Path

import torch

from search_space.kernels import expert_conv, involution
from search_space.kernels.compilation import compile_library

HERE = Path(__file__).parent


def operators_library() -> Path:
    """Return the file; it is compiled at first use, like the kernels that it calls.

    C++ loads it by ``dlopen``, Python by ``torch.ops.load_library``; not beside
    ``import search_space``, which defines the same operators. It has no gradients and is for
    processors like this one.

    Raises:
        RuntimeError: There is no compiler, or it refuses the file.
        OSError: The cache cannot be written.
        subprocess.SubprocessError: The compiler takes too long.
    """
    installed = Path(torch.__file__).parent
    includes = (installed / "include", installed / "include/torch/csrc/api/include")
    flags = [f"-I{folder}" for folder in includes]
    return compile_library(
        HERE / "torch_operators.cpp",
        Path(involution.__file__).with_name("involution.cpp"),
        Path(expert_conv.__file__).with_name("expert_conv.cpp"),
        flags=[*flags, f"-L{installed / 'lib'}", "-ltorch_cpu", "-lc10"],
    )
