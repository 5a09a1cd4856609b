"""A real S3 server on loopback (moto's), in a thread of the test's process."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

BUCKET = "intermoe-tests"


@contextmanager
def s3_server(address: str = "127.0.0.1") -> Iterator[str]:
    """The URI of an empty bucket; the environment names the server and its credentials while the block runs.

    Args:
        address: that the server listens on.
    """
    import boto3
    import pytest
    import s3fs
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(address, 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
            patch.setenv("AWS_ACCESS_KEY_ID", "tests")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "tests")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            # A session of its own: the default one keeps the credentials and settings that it first found.
            boto3.Session().client("s3").create_bucket(Bucket=BUCKET)
            # A process keeps its connections, also to a server that it knew before.
            s3fs.S3FileSystem.clear_instance_cache()
            yield f"s3://{BUCKET}"
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()
