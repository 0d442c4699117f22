"""Time how a Salt master takes a release of Airflow from the bucket.

The bucket is the local cloud's, whose API runs in this process: the CPU time is that of the
master's part alone. The network of a t2.micro is slower than this host's loopback, so the seconds
are a lower limit. What a build takes, systemd writes into the master's journal:
`stackctl exec salt-1 -- journalctl -u 'airflow-release@*'`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/support"))

from memorycloud import MemoryHost, running  # noqa: E402
from saltmodules import load  # noqa: E402

NAME = "3.3"
MEGABYTES = 93  # of a release's archive


def main() -> int:
    """Print what putting and getting take; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=MEGABYTES, help="of the archive")
    megabytes = parser.parse_args().megabytes
    settings = {"region": "eu-west-1", "bucket": {"name": "bench-{account}"}}
    store = load("_modules", "release_bucket", __salt__={"aws.settings": lambda: settings})
    with tempfile.TemporaryDirectory() as name, running(Path(name, "c"), MemoryHost()) as cloud:
        os.environ |= {
            "AWS_ENDPOINT_URL": cloud.url,
            "AWS_ACCESS_KEY_ID": cloud.credentials.access_key_id,
            "AWS_SECRET_ACCESS_KEY": cloud.credentials.secret_access_key,
        }
        location = {"LocationConstraint": "eu-west-1"}
        cloud.client("s3").create_bucket(
            Bucket="bench-123456789012", CreateBucketConfiguration=location
        )
        folder = Path(name)
        archive = folder / f"{NAME}.tar.zst"
        archive.write_bytes(os.urandom(megabytes << 20))
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        archive.with_name(f"{archive.name}.sha256").write_text(f"{digest}  {archive.name}\n")
        for what, call, arguments in (
            ("ask", store.has, [NAME]),
            ("put", store.put, [NAME, name]),
            ("get", store.get, [NAME, name]),
        ):
            began, cpu = time.monotonic(), time.thread_time()
            call(*arguments)
            print(
                f"{what} {megabytes} MiB: {time.monotonic() - began:.1f} s,"
                f" {time.thread_time() - cpu:.1f} s of CPU"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
