"""Two MoCo-v2 views by DALI's own operators, on the CPU or a GPU: one graph for both.

Reader, decoder, random resized crop, colour twist (in DALI's fixed order), blur, flip and normalisation; no backgrounds. Runs on
the CPU in the tests; on a GPU (`mixed` decode, GPU operators) not yet run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from nvidia.dali import fn, types
from nvidia.dali.pipeline import pipeline_def

from figureground.pipeline import recipes
from figureground.shards import Store, expand

SIZE = 224
Stage = Literal["decode", "crop", "views"]


def view(image: Any, device: str, dtype: Any) -> Any:
    """Return the graph of one MoCo-v2 view of decoded images; `device` is "cpu" or "gpu", where `image` lies."""

    def coin(p: float) -> Any:
        return fn.random.coin_flip(probability=p)

    def around(low: float, high: float, applied: Any, neutral: float) -> Any:
        return fn.random.uniform(range=[low, high]) * applied + neutral * (1 - applied)

    made = crop(image, device)
    jitter, gray, blur = coin(0.8), coin(0.2), coin(0.5)
    made = fn.color_twist(
        made,
        device=device,
        brightness=around(0.6, 1.4, jitter, 1.0),
        contrast=around(0.6, 1.4, jitter, 1.0),
        saturation=around(0.6, 1.4, jitter, 1.0) * (1 - gray),
        hue=around(-36.0, 36.0, jitter, 0.0),
    )
    made = fn.gaussian_blur(made, device=device, sigma=around(0.1, 2.0, blur, 0.1))
    mean, std = [255 * m for m in recipes.IMAGENET_MEAN], [255 * s for s in recipes.IMAGENET_STD]
    return fn.crop_mirror_normalize(
        made, device=device, mirror=coin(0.5), mean=mean, std=std, output_layout="CHW", dtype=dtype
    )


def crop(image: Any, device: str) -> Any:
    """Return the graph of a random resized crop (224, 224, 3) uint8 of decoded images."""
    return fn.random_resized_crop(
        image, device=device, size=SIZE, random_area=[0.2, 1.0], random_aspect_ratio=[3 / 4, 4 / 3], antialias=True
    )


def views_graph(
    shards: Any, *, gpu: bool, batch_size: int, threads: int, stage: Stage = "views", half: bool = False, seed: int = 1
) -> Any:
    """Build the pipeline.

    Parameters
    ----------
    shards : pattern or patterns
        With an index beside each tar.
    gpu : bool
        `mixed` decode and GPU operators on device 0; else everything on the CPU, without CUDA.
    stage : {"decode", "crop", "views"}
        Outputs: decoded images; two crops (224, 224, 3) uint8; two views (3, 224, 224), normalised.
    half : bool
        float16 views instead of float32.

    Returns
    -------
    nvidia.dali.Pipeline, built
    """
    paths = expand(shards)
    indexes = [str(Path(path).with_suffix(".idx")) for path in paths]
    operators, decoder = ("gpu", "mixed") if gpu else ("cpu", "cpu")
    dtype = types.FLOAT16 if half else types.FLOAT

    @pipeline_def(batch_size=batch_size, num_threads=threads, device_id=0 if gpu else None, seed=seed)
    def graph() -> Any:
        encoded = fn.readers.webdataset(paths=paths, index_paths=indexes, ext=["jpg;jpeg;png"], random_shuffle=True)
        image = fn.decoders.image(encoded, device=decoder, output_type=types.RGB)
        if stage == "decode":
            return image
        return tuple(crop(image, operators) if stage == "crop" else view(image, operators, dtype) for _ in range(2))

    pipe = graph()
    pipe.build()
    return pipe


class DaliOperators:
    """Epochs of `views_graph`: yields a list of TensorLists a batch, of `stage`."""

    def __init__(
        self,
        shards: Any,
        threads: int,
        batch_size: int,
        *,
        gpu: bool = False,
        stage: Stage = "views",
        half: bool = False,
    ) -> None:
        with Store(shards) as store:
            self._batches = len(store) // batch_size
        self._pipe = views_graph(shards, gpu=gpu, batch_size=batch_size, threads=threads, stage=stage, half=half)

    def outputs(self) -> Iterator[Sequence[Any]]:
        """Yield the outputs of each batch of an epoch; on a GPU they are complete when they come."""
        for _ in range(self._batches):
            yield self._pipe.run()

    def __call__(self, seed: int) -> Iterator[list[Any]]:
        for outputs in self.outputs():
            yield [output.as_cpu().as_array() for output in outputs]
