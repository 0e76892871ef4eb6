"""One file to or from S3 with boto3: boto3_copy.py up|down ENDPOINT BUCKET KEY FILE"""

import sys

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

direction, endpoint, bucket, key, file = sys.argv[1:]
config = TransferConfig(multipart_threshold=10_000_000, multipart_chunksize=10_000_000, max_concurrency=10)
s3 = boto3.client("s3", endpoint_url=endpoint, config=Config(s3={"addressing_style": "path"}, max_pool_connections=10))
if direction == "up":
    s3.upload_file(file, bucket, key, Config=config)
else:
    s3.download_file(bucket, key, file, Config=config)
