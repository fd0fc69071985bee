"""An S3 server on this machine."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def s3_server() -> Iterator[dict[str, Any]]:
    """Serve an empty bucket "bucket"; yields fsspec's storage options. Skips the test where packages are missing."""
    server = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    boto3 = pytest.importorskip("boto3")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    try:
        host, port = moto.get_host_and_port()
        keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys).create_bucket(Bucket="bucket")
        yield {
            "key": "k", "secret": "s", "endpoint_url": f"http://{host}:{port}", "client_kwargs": {"region_name": "us-east-1"},
        }  # fmt: skip
    finally:
        moto.stop()
