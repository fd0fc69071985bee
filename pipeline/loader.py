"""A drop-in for torch.utils.data.DataLoader: shards in, augmented batches out."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import torch

from figureground.shards import MaskStore, Store
from figureground.shards.cache import ShardCache

from .arguments import as_place, check_kinds, check_samples, quarantine_place, warn_of_places, warn_without_masks
from .assemble import Assembler
from .augment import Augmenter
from .backgrounds import Backgrounds, JoinedMasks
from .companions import extra_rows, lookahead
from .decode import Decoder
from .device import ARRAY_DTYPES, make_device
from .donors import check_donors, most_images, reach_of
from .engine import Engine, Epoch, check_process
from .epochs import plan_epochs
from .extras import check_loading, open_textures
from .figure_crops import check_masks
from .formats import FORMATS, WITH_MASKS, WITH_NEGATIVES
from .lookalikes import Sampler, Sized
from .masking import Masker, MaskMode, check_sidecars
from .needs import Ahead
from .order import DONOR_BLOCK
from .other_class import check_labels
from .pairs import find_partners
from .processors import own_processors
from .quarantine import Quarantine
from .ranks import confirm_rank, find_rank
from .recipe import Recipe
from .sample_groups import GroupSource, groups_fingerprint, read_groups
from .states import make_state, note_masks, read_state
from .whole_numbers import as_integer
from .windows import WindowOrder


class Loader:
    """Stream augmented batches from WebDataset shards.

    Parameters
    ----------
    shards : str, path or sequence of them
        Tar files: paths, globs, brace patterns ("train-{000000..000099}.tar") or folders.
    recipe : Recipe
        See `figureground.pipeline.recipes`.
    batch_size : int
        Samples per batch and rank. Multiples of 8 keep background donors inside the batch (see `Order.donors`), and
        multiples of a style's block its lender; with group mixing it must be a multiple of the group.
    device : str or torch.device
        "cuda", "cuda:1", ... or "cpu". There is no fallback from one to the other.
    masks : {"auto", "sidecar", "kernel"} or None
        "sidecar": precomputed masks by key (`figureground masks`), samples without one are left alone; "kernel": saliency
        estimated on the device for each image; "auto": the sidecar where there is one, else the kernel; None: no masks.
    masks_dir : path, optional
        Folder of the sidecars, or its URL (with `cache`); by default they lie beside their shards. Shards without one are
        logged, and none at all in a folder that is named here is an error.
    textures_dir : path, optional
        The same for the sidecars of textures (`figureground textures`), read if the recipe has "texture-file" negatives.
    method : str
        Saliency method of the kernel; see `figureground.pipeline.methods`.
    seed : int
        Of order and augmentation.
    format : {"dict", "moco", "swav", "dino", "dinov2", "solo", "lightly", "lightly-train", "vissl"}
        What a batch looks like; see `figureground.pipeline.formats`.
    dtype : torch.dtype
        float32, float16 or bfloat16.
    channels_last : bool
        Views in torch.channels_last memory format.
    shuffle, drop_last : bool
    rank, world_size : int, optional
        Default: torch.distributed if initialised, else the environment (RANK, WORLD_SIZE), else one rank.
    prefetch : int
        Finished batches that wait for the trainer, at most.
    threads : int, optional
        CPU threads for decoding and, on the CPU, for the kernels. Default: the processors this process may use,
        or its share of them; see `own_processors`.
    error_budget : float
        Share of the samples that this rank meets that may be undecodable before the loader stops with an error; 0 allows none.
    quarantine : path, optional
        JSON lines about undecodable samples are appended to this file.
    max_pixels : int
        Images with more pixels count as undecodable (decompression bombs).
    cache : ShardCache, optional
        Where shards given as URLs (s3://, gs://, https://, ...) are kept; needed for those, and shared by the ranks of a node.
    window : int
        Shards whose samples are shuffled together when shards are URLs, or with lanes; see `figureground.pipeline.windows`.
    lanes : int
        Equal parts of each epoch, of which a node reads (and fetches) its own; every batch of all ranks takes as many samples of
        each. Fixed for a whole run, like the seed: best the largest number of nodes it may have. It must divide
        batch_size x world_size, best 8 times. 1: every node reads all. See `figureground.pipeline.lanes`.
    backgrounds : str, path or sequence of them, optional
        Images of your own that become the grounds of views, instead of other samples: a folder of image files (any depth), or
        shards. Background i has the sample id len(loader.dataset) + i in `params`. See `figureground.pipeline.backgrounds`.
    groups : path, dict or array, optional
        Group of each sample, for recipes with `with_pairs("group")`; see `figureground.pipeline.sample_groups`.
    clusters : path, dict or array, optional
        Cluster of each sample, in the same form: no batch (of all ranks together) holds two samples of a cluster. Resuming
        needs the same global batch size. See `figureground.pipeline.stratified`.

    Raises
    ------
    ValueError
        For arguments out of range, and (as `ShardError`) for shards that cannot be read.
    RuntimeError
        If `device` is a GPU and CUDA or CuPy is not there.

    Examples
    --------
    ::

        recipe = recipes.moco_v2().with_background("swap", p=0.2)
        loader = Loader("shards/train-{000000..000099}.tar", recipe, batch_size=256, format="moco")
        for epoch in range(200):
            loader.set_epoch(epoch)
            for (q, k), target in loader:
                ...
    """

    def __init__(
        self,
        shards: str | Path | Sequence[str | Path],
        recipe: Recipe,
        *,
        batch_size: int,
        device: str | torch.device = "cuda",
        masks: MaskMode = "auto",
        masks_dir: str | Path | None = None,
        textures_dir: str | Path | None = None,
        method: str = "fused",
        seed: int = 0,
        format: Literal["dict", "moco", "swav", "dino", "dinov2", "solo", "lightly", "lightly-train", "vissl"] = "dict",
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        shuffle: bool = True,
        drop_last: bool = True,
        rank: int | None = None,
        world_size: int | None = None,
        prefetch: int = 2,
        threads: int | None = None,
        error_budget: float = 0.01,
        quarantine: str | Path | None = None,
        max_pixels: int = 2**27,
        cache: ShardCache | None = None,
        window: int = 8,
        lanes: int = 1,
        backgrounds: str | Path | Sequence[str | Path] | None = None,
        groups: GroupSource | None = None,
        clusters: GroupSource | None = None,
    ) -> None:
        check_kinds(recipe, format, dtype, cache)
        device, seed = str(device), as_integer("Loader: seed", seed)
        batch_size = as_integer("Loader: batch_size", batch_size, 1)
        prefetch = as_integer("Loader: prefetch", prefetch, 1)
        threads = own_processors() if threads is None else as_integer("Loader: threads", threads, 1)
        window, max_pixels = as_integer("Loader: window", window, 1), as_integer("Loader: max_pixels", max_pixels, 1)
        lanes = as_integer("Loader: lanes", lanes, 1)
        masks_dir, textures_dir, quarantine = as_place(masks_dir), as_place(textures_dir), quarantine_place(quarantine)
        warn_of_places(recipe, masks, masks_dir, textures_dir)
        check_loading(recipe, format=format, masks=masks, batch_size=batch_size)
        self._rank_given = rank is not None
        rank, world_size = find_rank(rank, world_size)
        self._recipe, self._format, self._prefetch = recipe, format, prefetch
        view_device = make_device(device)
        self._store = Store(shards, cache=cache)
        check_samples(self._store, boxes=recipe.anchors and masks is None)
        samples = len(self._store)
        self._epochs = plan_epochs(
            self._store, seed, shuffle=shuffle, window=window, lanes=lanes, clusters=clusters, batch_size=batch_size, rank=rank,
            world_size=world_size, drop_last=drop_last,
        )  # fmt: skip
        self._order, self._split = self._epochs.order, self._epochs.split
        self._inputs: dict[str, str | None] = {**self._epochs.inputs}
        self._backgrounds = None if backgrounds is None else Backgrounds(backgrounds, samples)
        own = 0 if self._backgrounds is None else len(self._backgrounds)
        check_donors(recipe, self._order, self._split.lane_step, None if backgrounds is None else own)
        check_masks(recipe, masks)
        check_labels(recipe, self._store)
        if self._backgrounds is not None:
            self._inputs["backgrounds"] = self._backgrounds.fingerprint
        with_masks, with_negatives = format in WITH_MASKS, format in WITH_NEGATIVES
        wanted = recipe.uses_masks or (with_masks and masks is not None)
        sidecars = MaskStore(self._store, masks_dir, cache=cache) if wanted and masks in ("auto", "sidecar") else None
        warn_without_masks(recipe, masks)
        if sidecars is not None:
            check_sidecars(sidecars, masks, masks_dir)
        textures = open_textures(self._store, textures_dir, cache) if with_negatives and recipe.uses_textures else None
        self._quarantine = Quarantine(
            self._store, self._store.shards, budget=error_budget, samples=-(-samples // world_size), path=quarantine,
            backgrounds=self._backgrounds,
        )  # fmt: skip
        block = lookahead(recipe)
        labels = None if groups is None else read_groups(groups, self._store, "groups")
        partners = find_partners(recipe, self._store, labels, seed)
        if labels is not None:
            self._inputs["groups"] = groups_fingerprint(labels)
        decoder = Decoder(
            most_images(recipe, batch_size, samples, own, self._split.cut_runs(DONOR_BLOCK))
            + extra_rows(recipe) * self._split.cut_runs(block) + (0 if textures is None else batch_size),
            device=view_device.name, threads=threads, masks=sidecars is not None, max_pixels=max_pixels, boxes=recipe.anchors,
        )  # fmt: skip
        ahead = None
        if self._store.is_remote and isinstance(self._order, WindowOrder):
            reach = reach_of(recipe, samples, own)
            ahead = Ahead(self._store, (sidecars, textures), self._order, self._split, past=reach, block=block)
        self._engine = Engine(
            recipe,
            self._store,
            Assembler(
                self._store, decoder, recipe, self._order, self._split, self._quarantine,
                masks=None if sidecars is None else JoinedMasks(sidecars, self._backgrounds),
                all_masks=with_masks, negatives=with_negatives,
                ahead=ahead, backgrounds=self._backgrounds, partners=partners, textures=textures,
            ),
            Masker(
                recipe, masks if wanted else None, method=method, all_samples=with_masks or (with_negatives and recipe.swaps),
                cuda=view_device.cuda,
            ),
            Augmenter(
                recipe, dtype=ARRAY_DTYPES[dtype], channels_last=channels_last, masks=with_masks, negatives=with_negatives,
                threads=threads,
            ),
            view_device,
            dtype=dtype,
            channels_last=channels_last,
        )  # fmt: skip
        self._inputs |= note_masks(recipe, masks, method, sidecars, textures, self._backgrounds)
        self._epoch, self._position = 0, 0
        self._resumes, self._asked_epoch = True, -1  # is (epoch, position) still to be iterated? set_epoch's value
        self._running: weakref.ref[Epoch] | None = None
        opened = (self._engine, decoder, self._store, sidecars, textures, self._backgrounds)
        self._process = os.getpid()
        self._finalizer = weakref.finalize(self, _close, [one for one in opened if one is not None], self._process)
        self.batch_size, self.drop_last, self.num_workers = batch_size, drop_last, 0
        self.dataset, self.sampler, self.batch_sampler = Sized(samples), Sampler(self), None

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank: exact, constant, the same on all ranks."""
        return self._split.batches()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; without it, each iteration takes the next one.

        Setting the epoch that `load_state_dict` restored keeps the position inside it. An iteration that is open and has not
        handed out a batch yet is the next one (Lightning makes the iterator first and sets the epoch then).
        """
        self._asked_epoch = as_integer("Loader: epoch", epoch, 0)
        running = self._current()
        if running is not None and running.untouched:
            before, now = (self._epoch, self._position), self._next_pass()
            (self._epoch, self._position), self._asked_epoch = now, -1
            if now != before:
                running.restart(*now)

    def _current(self) -> Epoch | None:
        return None if self._running is None else self._running()

    def _is_running(self, epoch: int) -> bool:
        """Tell whether an iteration of an epoch is open."""
        running = self._current()
        return running is not None and running.is_open and self._epoch == epoch

    def _stop_running(self, by: str) -> None:
        running = self._current()
        if running is not None:
            running.close(by)
        self._running = None

    def _check_usable(self) -> None:
        check_process(self._process)
        if not self._finalizer.alive:
            raise RuntimeError("Loader: this loader was closed; make a new one")
        if not self._rank_given:
            confirm_rank(self._split.rank, self._split.world_size)

    def __iter__(self) -> Iterator[Any]:
        """Start (or, after `load_state_dict`, continue) an epoch. An iteration that is still open is closed."""
        self._check_usable()
        self._stop_running("another one")
        self._epoch, self._position = self._next_pass()
        self._resumes, self._asked_epoch = True, -1  # until a batch is handed out, an iteration does not count
        epoch = Epoch(self._engine, FORMATS[self._format], self._epoch, self._position, self._prefetch, self._note)
        self._running = weakref.ref(epoch)
        return epoch

    def _next_pass(self) -> tuple[int, int]:
        """Return epoch and first position of the next iteration."""
        if self._asked_epoch >= 0 and not (self._resumes and self._asked_epoch == self._epoch):
            return self._asked_epoch, 0
        return (self._epoch, self._position) if self._resumes else (self._epoch + 1, 0)

    def replay(self, samples: Sequence[int], *, epoch: int) -> Any:
        """Make a batch of given samples exactly as an epoch would: same views, same donors, same negatives.

        Parameters
        ----------
        samples : sequence of at most `batch_size` int
            Sample ids, as `index` of a batch gives them.
        epoch : int

        Returns
        -------
        A batch in the loader's format. An iteration that is open is closed.
        """
        if not 1 <= len(samples) <= self.batch_size:
            raise ValueError(
                f"Loader.replay: samples must be 1 to batch_size = {self.batch_size} ids, got {len(samples)}"
            )
        self._check_usable()
        epoch = as_integer("Loader.replay: epoch", epoch, 0)
        self._stop_running("a replay")
        assembler, device = self._engine.assembler, self._engine.device
        with device.producing():  # a replay may decode while it submits
            assembler.submit_positions(epoch, self._order.positions(epoch, np.asarray(samples, np.int64)))
            batch = self._engine.make(assembler.collect())
        device.hand_over(batch)
        return FORMATS[self._format](batch)

    def _note(self, epoch: int, position: int, over: bool) -> None:
        """Take note of a delivered batch, or of an epoch's end."""
        self._epoch, self._position, self._resumes = (epoch + 1, 0, True) if over else (epoch, position, False)

    def state_dict(self) -> dict[str, Any]:
        """Return where the loader stands: JSON-ready, the same on every rank, legal for any number of ranks.

        Batches that were prefetched but not yet handed out count as not delivered.
        """
        asked = self._asked_epoch >= 0 and not self._is_running(self._asked_epoch)
        epoch, position = self._next_pass() if asked else (self._epoch, self._position)
        return make_state(
            epoch, position, store=self._store, recipe=self._recipe, epochs=self._epochs, inputs=self._inputs
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken: the next iteration yields the samples not yet delivered, each once.

        Batch size and number of ranks may differ from those of the run that saved the state.

        Raises
        ------
        ValueError
            If shards, recipe, seed, order or masks differ; the message names what. See `states` for those of earlier versions.
        """
        epoch, position = read_state(state, self.state_dict())
        self._split.check_start(position)
        self._stop_running("load_state_dict")
        self._epoch, self._position = epoch, position
        self._resumes, self._asked_epoch = True, -1

    def stats(self) -> dict[str, Any]:
        """Return counters since the loader was made.

        Returns
        -------
        dict
            "seconds" by stage of the producer thread, "trainer_waited_s", "queue_full_s", "queue_depth" (finished batches that wait
            now), "batches", "samples", "samples_per_s" (without the first batch of each iteration), "replaced" (distinct
            undecodable samples), "replaced_backgrounds" (those of the user's set), "backgrounds_drawn" (of views), of these
            "backgrounds_left_alone" by their masks and "other_class_unmet" (not known to be of another class), and "bottleneck".
        """
        bad = self._quarantine
        depth = 0 if (running := self._current()) is None else running.waiting
        found = {"queue_depth": depth, "replaced": len(bad.bad), "replaced_backgrounds": len(bad.bad_backgrounds)}
        return {**self._engine.stats(), **found}

    def close(self) -> None:
        """Stop the producer and free decoder, threads and files; the loader cannot be used again."""
        self._stop_running("close")
        self._finalizer()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "Loader: cannot be pickled or copied, it holds threads and open files; make one in each process"
        )

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _close(opened: list[Any], made_in: int) -> None:
    if os.getpid() == made_in:  # a forked child has none of the threads, and perhaps a lock that nobody will free
        for one in opened:
            one.close()
