"""moto's server on a loopback port, until standard input ends: serve_moto.py PORT BUCKET"""

import logging
import os
import sys
import threading

from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.s3.responses import S3Response
from moto.server import ThreadedMotoServer
from moto.sqs.models import Queue


def one_at_a_time(delete):
    """moto deletes by putting another list in place of the queue's, and what another thread adds meanwhile is lost."""

    def locked(queue, receipt_handle):
        with queue._messages_lock:
            return delete(queue, receipt_handle)

    return locked


Queue.delete_message = one_at_a_time(Queue.delete_message)


def atomic(call):
    """moto looks whether a condition holds, and then writes; another thread's write may come between."""

    def locked(*arguments, **more):
        with writing:
            return call(*arguments, **more)

    return locked


writing = threading.RLock()
for name in ("_key_response_put", "_key_response_post", "_key_response_delete"):
    setattr(S3Response, name, atomic(getattr(S3Response, name)))


def end_with_input():
    sys.stdin.buffer.read()
    os._exit(0)


threading.Thread(target=end_with_input, daemon=True).start()
# Not a line for every request.
logging.getLogger("werkzeug").setLevel(logging.ERROR)
s3_backends[DEFAULT_ACCOUNT_ID]["aws"].create_bucket(sys.argv[2], "us-east-1")
server = ThreadedMotoServer(ip_address="127.0.0.1", port=int(sys.argv[1]), verbose=False)
server.start()
threading.Event().wait()
