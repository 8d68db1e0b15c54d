"""A retrained network as people use it: images in, names of classes and probabilities out.

`write_mlmodel` makes a network's folder a model that MLflow loads and serves, in its ``pyfunc``
flavour: a file that names this module, beside the architecture and the weights. Nothing is pickled.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from configs.atomic import write_atomically
from configs.errors import UserError
from evaluators import deployed
from experiments.data.decoding import decode_image, in_mode
from experiments.data.pixels import stream
from experiments.data.preprocessing import Normalizer, Preprocessing, colour_mode, fit
from experiments.tracking.model_registry import PYFUNC
from search_space import build_network, load_architecture
from search_space.architecture import WEIGHTS, load_pretrained_cfg
from supernet import load_weights

if TYPE_CHECKING:
    import pandas as pd

    from experiments.data.batches import EvaluationBatches

COLUMN = "image"  # of the table that a model in MLflow takes


class Classifier:
    """A trained network in evaluation mode, with the preprocessing that its weights expect.

    Attributes:
        class_names: In the order of the probabilities.

    Args:
        folder: What `evolute retrain` wrote, or a registered version: ``architecture.yaml`` and
            the weights.

    Raises:
        UserError: A file is missing or damaged, or says nothing of what the weights expect.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        folder = Path(folder)
        file = folder / "architecture.yaml"
        expected = load_pretrained_cfg(file)
        if "label_names" not in expected or not (folder / WEIGHTS).exists():
            raise UserError(
                f"{folder}: no trained network there; give the folder of one, such as "
                "runs/quickstart/retrained/best-*"
            )
        space, architecture = load_architecture(file)
        network = build_network(space, architecture).eval()
        load_weights(folder / WEIGHTS, network)
        self._network = deployed(network)
        self._preprocessing = _preprocessing(expected)
        self._mode = colour_mode(self._preprocessing.channels)
        self._normalize = Normalizer(self._preprocessing, "cpu")
        self.class_names: list[str] = list(expected["label_names"])

    @torch.inference_mode()
    def __call__(self, images: Iterable[Any]) -> np.ndarray:
        """Return the probabilities, float32 (N, classes).

        Args:
            images: Of any sizes; each a PIL image, the bytes of a file, these in base64, or an
                array (H, W) or (H, W, channels) of uint8, or of floats from 0 to 1.

        Raises:
            ValueError: One is something else.
        """
        size = self._preprocessing.size
        fitted = [np.asarray(fit(as_image(image, self._mode), size)) for image in images]
        pixels = torch.from_numpy(np.stack(fitted)).view(len(fitted), size, size, -1)
        logits = self._network(self._normalize(pixels.permute(0, 3, 1, 2)))
        return logits.softmax(dim=1).numpy()

    def best(self, image: Any, count: int = 5) -> list[tuple[str, float]]:
        """Return the most probable classes of an image and their probabilities."""
        (row,) = self([image])
        order = np.argsort(-row, kind="stable")[:count]
        return [(self.class_names[index], float(row[index])) for index in order]


def _preprocessing(expected: Mapping[str, Any]) -> Preprocessing:
    channels, size, _ = expected["input_size"]
    return Preprocessing(
        size=size,
        channels=channels,
        mean=tuple(expected["mean"]),
        std=tuple(expected["std"]),
        crop=expected["crop_pct"],
        interpolation=expected["interpolation"],
    )


def as_image(value: Any, mode: str) -> Any:
    """Return one of the things that `Classifier` takes as a PIL image in a mode.

    Raises:
        ValueError: It is none of them.
    """
    from PIL import Image

    if isinstance(value, Image.Image):
        return in_mode(value.copy(), mode)
    if isinstance(value, str):
        try:
            value = base64.b64decode(value, validate=True)
        except binascii.Error:
            raise ValueError("a text should be the bytes of an image file in base64") from None
    if isinstance(value, bytes | bytearray):
        return decode_image(io.BytesIO(value), mode)
    return in_mode(Image.fromarray(_as_pixels(value)), mode)


def _as_pixels(value: Any) -> np.ndarray:
    """Return uint8 (H, W) or (H, W, 3 or 4)."""
    array = np.asarray(value)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ValueError(f"an array of shape {array.shape} is no image: (H, W) or (H, W, 3)")
    whole = np.issubdtype(array.dtype, np.integer)
    if not (whole or np.issubdtype(array.dtype, np.floating)):
        raise ValueError(f"an array of {array.dtype} is no image: uint8, or floats from 0 to 1")
    low, high, most = float(array.min()), float(array.max()), 255 if whole else 1
    if not 0 <= low <= high <= most:
        raise ValueError(f"pixels from {low:g} to {high:g}: {array.dtype} should be 0 to {most}")
    return array.astype(np.uint8) if whole else np.round(array * 255).astype(np.uint8)


class Served:
    """What MLflow calls: a table with a column of images, and one with the answers."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Return a row an image: its ``class``, the ``probability`` of that, and all of them.

        Args:
            model_input: A table with a column `COLUMN`, or a sequence of images.
            params: None are known.
        """
        import pandas as pd

        images = model_input[COLUMN] if isinstance(model_input, pd.DataFrame) else model_input
        probabilities = self.classifier(list(images))
        names, best = self.classifier.class_names, probabilities.argmax(axis=1)
        return pd.DataFrame(
            {
                "class": [names[index] for index in best],
                "probability": probabilities.max(axis=1).astype(float),
                "probabilities": probabilities.astype(float).tolist(),
            }
        )


def _load_pyfunc(path: str) -> Served:
    """Load a folder; MLflow calls this by its name."""
    return Served(Classifier(Path(path)))


def example_file(batches: EvaluationBatches) -> bytes:
    """Return the first of some images as a PNG file, as the network sees it."""
    from PIL import Image

    chosen = [batches.indices[:1]]
    (pixels,) = next(iter(stream(batches.pixels, chosen, torch.device("cpu"))))
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy().squeeze(2 if len(pixels) == 1 else ()))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def write_mlmodel(folder: Path, class_names: Sequence[str], example: bytes) -> None:
    """Make the folder of a retrained network a model of MLflow's ``pyfunc`` flavour.

    Args:
        class_names: In the order of the probabilities, kept with the model.
        example: The bytes of an image file, shown as input example.
    """
    import pandas as pd

    from experiments.tracking.store import import_mlflow

    mlflow = import_mlflow()
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, Array, ColSpec, DataType, Schema, TensorSpec

    outputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.string, "class"),
        ColSpec(DataType.double, "probability"),
        ColSpec(Array(DataType.double), "probabilities"),
    ]
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "model"
        mlflow.pyfunc.save_model(
            path,
            loader_module=__name__,
            signature=ModelSignature(
                inputs=Schema([ColSpec(AnyType(), COLUMN)]), outputs=Schema(outputs)
            ),
            input_example=pd.DataFrame({COLUMN: [base64.b64encode(example).decode()]}),
            pip_requirements=["evolute", "mlflow"],
            metadata={"class_names": list(class_names)},
        )
        for file in PYFUNC:
            if (path / file).exists():
                write_atomically(folder / file, (path / file).read_bytes())
