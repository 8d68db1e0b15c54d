"""How each file in a network's folder is loaded: Python that runs as it stands, in that folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.program_list import OPERATORS
from search_space.architecture import WEIGHTS

HEADING = "## Load"
EXPECTED = 'expected = yaml.safe_load(open("architecture.yaml"))["pretrained_cfg"]'
TRANSFORM = "timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=expected))"
ANSWER = 'print(expected["label_names"][logits[0].argmax()])'
ARRAYS = {"float32": ".numpy()", "float16": ".half().numpy()"}
TENSORS = {"float32": "", "bfloat16": ".bfloat16()"}


def how_to_load(folder: Path, exports: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a section in Markdown with one code block for each file that is there.

    Args:
        exports: File -> ``batch`` (0: any number) and ``dtype``; a file without is for one image
            in float32.
    """
    about = "what images must be like, and the names of the classes, is in `architecture.yaml`"
    first = "Each block runs as it stands in this folder, beside a `photo.jpg`; "
    parts = [f"{HEADING}\n\n{first}{about}."]
    if (folder / WEIGHTS).exists():
        parts += [_block("`weights.safetensors`", "Evolute", _classifier())]
        parts += [_block("`weights.safetensors` in timm", "Evolute, timm", _timm())]
    for file in sorted(folder.glob("model*")):
        known = exports.get(file.name, {})
        batch, dtype = known.get("batch", 1), known.get("dtype", "float32")
        if file.name.startswith("model-openvino") and file.suffix in (".onnx", ".xml"):
            needs = "Evolute, a C++ compiler (for our operators), OpenVINO, timm"
            lines = _openvino(file.name, batch, dtype)
        elif file.name == "model-operators.onnx":
            needs = "Evolute, a C++ compiler and ONNX Runtime's headers, ONNX Runtime, timm"
            lines = _onnxruntime(file.name, batch, dtype, operators=True)
        elif file.suffix == ".onnx":
            needs, lines = "ONNX Runtime, timm", _onnxruntime(file.name, batch, dtype)
        elif file.suffix == ".pt2":
            needs = "PyTorch, timm, a processor like the exporting one"
            lines = _package(file.name, batch, dtype, (folder / OPERATORS).exists())
        else:
            continue
        parts += [_block(f"`{file.name}`", needs, lines)]
    return "\n\n".join(parts)


def with_section(card: str, section: str) -> str:
    """Return a card with this section in the place of the one before, or at its end."""
    before, found, after = card.partition(HEADING + "\n")
    if not found:
        return f"{card.rstrip()}\n\n{section}\n".lstrip()
    _, further, rest = after.partition("\n## ")
    return before + section + "\n" + (f"\n## {rest}" if further else "")


def _block(title: str, needs: str, lines: list[str]) -> str:
    code = "\n".join(lines)
    return f"{title} (needs {needs}):\n\n```python\n{code}\n```"


def _image(batch: int, form: str) -> list[str]:
    """Lines from the file to ``images`` of the batch and type that a program takes."""
    many = f".repeat({batch}, 1, 1, 1)" if batch > 1 else ""
    note = f"  # the program takes {batch} images at once" if batch > 1 else ""
    return [
        EXPECTED,
        'mode = "RGB" if expected["input_size"][0] == 3 else "L"',
        'image = Image.open("photo.jpg").convert(mode)',
        f"transform = {TRANSFORM}",
        f"images = transform(image)[None]{many}{form}{note}",
    ]


def _classifier() -> list[str]:
    return [
        "import evolute",
        "",
        'classifier = evolute.Classifier(".")',
        'print(classifier.best(open("photo.jpg", "rb").read()))',
    ]


def _timm() -> list[str]:
    return [
        "import evolute.timm_models, timm, torch, yaml",
        "from PIL import Image",
        "",
        'model = timm.create_model("evolute", architecture="architecture.yaml", pretrained=True)',
        *_image(1, ""),
        "with torch.no_grad():",
        "    logits = model.eval()(images)",
        ANSWER,
    ]


def _onnxruntime(file: str, batch: int, dtype: str, operators: bool = False) -> list[str]:
    extension = [
        "options = onnxruntime.SessionOptions()",
        "options.register_custom_ops_library(evolute.onnxruntime_extension())  # compiled once",
    ]
    return [
        f"import {'evolute, ' if operators else ''}onnxruntime, timm, yaml",
        "from PIL import Image",
        "",
        *(extension if operators else []),
        f'session = onnxruntime.InferenceSession("{file}"{", options" if operators else ""})',
        *_image(batch, ARRAYS[dtype]),
        '(logits,) = session.run(None, {"images": images})',
        ANSWER,
    ]


def _openvino(file: str, batch: int, dtype: str) -> list[str]:
    hint = ', {"INFERENCE_PRECISION_HINT": "bf16"}' if dtype == "bfloat16" else ""
    return [
        "import evolute, openvino, timm, yaml",
        "from PIL import Image",
        "",
        "core = openvino.Core()",
        "if extension := evolute.openvino_extension():  # our operators, compiled at first use",
        "    core.add_extension(extension)",
        f'model = core.compile_model("{file}", "CPU"{hint})',
        *_image(batch, ".numpy()"),
        "logits = model(images)[0]",
        ANSWER,
    ]


def _package(file: str, batch: int, dtype: str, operators: bool) -> list[str]:
    ours = [f'torch.ops.load_library("{OPERATORS}")  # not beside `import evolute`']
    return [
        "import timm, torch, yaml",
        "from PIL import Image",
        "",
        *(ours if operators else []),
        f'model = torch._inductor.aoti_load_package("{file}")  # it runs code: only load your own',
        *_image(batch, TENSORS[dtype]),
        "logits = model(images)",
        ANSWER,
    ]
