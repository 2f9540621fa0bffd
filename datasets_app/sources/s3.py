"""Rows in a bucket: one object, or all that begin with a key that ends with a slash."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets_app.formats.folder import is_data
from datasets_app.sources import Uri, unusable
from project.contracts.runs import UserError

_CHUNK = 1024 * 1024


def fetch(
    uri: Uri,
    target: Path,
    *,
    endpoint: str,
    region: str,
    max_bytes: int,
    tick: Callable[[int, int], None],
    check_stop: Callable[[], None],
) -> Path:
    """Download the object or the objects below `target`; returns the file, or the folder. Raises UserError.

    The key comes from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, which only this process was given.
    """
    with _explained(uri):
        client = _client(endpoint, region)
        sizes = dict(_objects(client, uri))
        total, done = sum(sizes.values()), 0
        if total > max_bytes:
            raise UserError(
                f"{uri} has {total:,} bytes; at most {max_bytes:,} are taken.",
                hint="Import a part of it, or ask the operator to raise MAX_UPLOAD_BYTES.",
                field="source",
            )
        for key in sizes:
            path = target / _below(uri, key)
            path.parent.mkdir(parents=True, exist_ok=True)
            body = client.get_object(Bucket=uri.bucket, Key=key)["Body"]
            with path.open("wb") as file:
                for chunk in body.iter_chunks(_CHUNK):
                    check_stop()
                    file.write(chunk)
                    done += len(chunk)
                    tick(min(done, total), total)
    return target if uri.key.endswith("/") else target / _below(uri, uri.key)


def _client(endpoint: str, region: str) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=endpoint or None,
        region_name=region or None,
        aws_access_key_id=os.environ.get("AWS_ACCESS_KEY_ID") or None,
        aws_secret_access_key=os.environ.get("AWS_SECRET_ACCESS_KEY") or None,
        config=Config(retries={"max_attempts": 4, "mode": "standard"}, connect_timeout=10, read_timeout=60),
    )


def _objects(client: Any, uri: Uri) -> Iterator[tuple[str, int]]:
    """(key, bytes) of what is to be fetched."""
    if not uri.key.endswith("/"):
        yield uri.key, client.head_object(Bucket=uri.bucket, Key=uri.key)["ContentLength"]
        return
    found = False
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=uri.bucket, Prefix=uri.key):
        for item in page.get("Contents", []):
            if is_data(item["Key"]) or item["Key"].rpartition("/")[2] in ("state.json", "dataset_dict.json"):
                found = True
                yield item["Key"], item["Size"]
    if not found:
        raise unusable(f"There is no file of rows under {uri}.", hint="Name an object, or a prefix that ends with /.")


def _below(uri: Uri, key: str) -> str:
    """Where an object is put: below the prefix that was asked for."""
    relative = key.removeprefix(uri.key) if uri.key.endswith("/") else key.rpartition("/")[2]
    return "/".join(piece for piece in relative.split("/") if piece not in ("", ".", "..")) or "rows"


@contextmanager
def _explained(uri: Uri) -> Iterator[None]:
    """Turn what the client raises into what a person can do."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in ("404", "NoSuchKey", "NoSuchBucket", "NotFound"):
            raise unusable(
                f"There is no {uri}.", hint="Check bucket and key. A key that ends with / stands for all below it."
            ) from error
        if code in ("403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
            raise unusable(
                f"{uri} may not be read with this installation's key.",
                hint="An operator allows it: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy.",
            ) from error
        raise unusable(f"The store answered: {error}", hint="Try again later.") from error
    except BotoCoreError as error:
        raise unusable(
            f"The store can't be reached ({type(error).__name__}).", hint="An operator checks S3_ENDPOINT_URL."
        ) from error
