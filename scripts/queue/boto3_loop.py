"""Receives and deletes the messages of a queue with boto3: boto3_loop.py THREADS"""

import os
import sys
import threading

import boto3
from botocore.config import Config

threads = int(sys.argv[1])
queue = os.environ["FOREBAY_SQS_QUEUE"]
config = Config(max_pool_connections=threads, retries={"max_attempts": 1})
sqs = boto3.client("sqs", endpoint_url=os.environ["FOREBAY_SQS_ENDPOINT"], config=config)


def loop():
    while True:
        received = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=1)
        messages = received.get("Messages", [])
        if messages:
            entries = [{"Id": str(n), "ReceiptHandle": its["ReceiptHandle"]} for n, its in enumerate(messages)]
            sqs.delete_message_batch(QueueUrl=queue, Entries=entries)


for _ in range(threads):
    threading.Thread(target=loop, daemon=True).start()
threading.Event().wait()
