"""Imported by the server that holders are forked from: what takes long once in a process is done there, for all."""

from __future__ import annotations

from tests.servers.s3 import client

# boto3 reads a description of the whole of S3 for its first client, which takes a hundred times as long as the next.
client("http://127.0.0.1:9")
