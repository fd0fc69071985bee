"""What tests of mask jobs in stores share."""

from __future__ import annotations

import fsspec
from masks_tasks import PlainTask

from figureground.pipeline.masks_engines import LocalEngine
from figureground.pipeline.masks_job import run_task

S3 = "s3://bucket/masks"


def run(shards, out, task=PlainTask(), engine=None, **options):  # noqa: B008
    """Run a job without a decoder."""
    return run_task(task, shards, out=out, engine=engine or LocalEngine(), progress=False, **options)


def contents(url, options=None):
    """What is behind a URL, hidden files too."""
    protocol, _, path = url.partition("://")
    own = (options or {}).get(protocol, {})
    store = fsspec.filesystem(protocol, skip_instance_cache=True, use_listings_cache=False, **own)
    return {name.rsplit("/", 1)[1]: store.cat_file(name) for name in store.find(path)}


def statuses(report):
    """What became of each shard."""
    return [shard.status for shard in report.shards]
