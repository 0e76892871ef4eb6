"""LocalStack's S3 and SQS on a loopback port, until standard input ends: serve_localstack.py PORT BUCKET"""

import os
import socket
import sys
import tempfile
import threading
import time

port, bucket = sys.argv[1:]
folder = tempfile.TemporaryDirectory()
# Nothing that it would fetch or report, and no file outside its folder.
os.environ.update(
    SERVICES="s3,sqs",
    GATEWAY_LISTEN=f"127.0.0.1:{port}",
    LOCALSTACK_HOST=f"localhost:{port}",
    SKIP_SSL_CERT_DOWNLOAD="1",
    DISABLE_EVENTS="1",
    DNS_ADDRESS="0",
    FILESYSTEM_ROOT=folder.name,
    LS_LOG="error",
)


def end_with_input():
    sys.stdin.buffer.read()
    folder.cleanup()
    os._exit(0)


threading.Thread(target=end_with_input, daemon=True).start()

bind = socket.socket.bind


def on_loopback(self, address):
    """It binds every interface whatever GATEWAY_LISTEN says."""
    everywhere = self.family == socket.AF_INET and address[0] in ("", "0.0.0.0")
    return bind(self, ("127.0.0.1", address[1]) if everywhere else address)


socket.socket.bind = on_loopback

from localstack.runtime.main import main  # noqa: E402


def make_bucket():
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    keys = dict(aws_access_key_id="any", aws_secret_access_key="any", region_name="us-east-1")
    s3 = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **keys)
    while True:
        try:
            return s3.create_bucket(Bucket=bucket)
        except (BotoCoreError, ClientError):
            # It has not started yet.
            time.sleep(0.1)


threading.Thread(target=make_bucket, daemon=True).start()
main()
