"""Programs that read every training job of one region, each as plain as its kind is written.

    python -m tests.benchmarks.contenders NAME

AWS_ENDPOINT_URL, AWS_DEFAULT_REGION and the keys come from the environment; prints the jobs read.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

REGION = "us-east-1"


def boto3_threads() -> int:
    """boto3 with 16 threads: describe and tag every job."""
    import boto3
    from botocore.config import Config

    client = boto3.client("sagemaker", REGION, config=Config(max_pool_connections=16))

    def read(summary: dict[str, Any]) -> int:
        client.describe_training_job(TrainingJobName=summary["TrainingJobName"])
        client.list_tags(ResourceArn=summary["TrainingJobArn"])
        return 1

    pages = client.get_paginator("list_training_jobs").paginate(PaginationConfig={"PageSize": 100})
    with ThreadPoolExecutor(16) as pool:
        return sum(sum(pool.map(read, page["TrainingJobSummaries"])) for page in pages)


def aiobotocore_semaphore() -> int:
    """aiobotocore with a semaphore of 64: describe and tag every job."""
    from aiobotocore.config import AioConfig
    from aiobotocore.session import get_session

    async def main() -> int:
        slots = asyncio.Semaphore(64)
        config = AioConfig(max_pool_connections=64)
        async with get_session().create_client("sagemaker", REGION, config=config) as client:

            async def read(summary: dict[str, Any]) -> int:
                async with slots:
                    await client.describe_training_job(TrainingJobName=summary["TrainingJobName"])
                    await client.list_tags(ResourceArn=summary["TrainingJobArn"])
                return 1

            done = 0
            pages = client.get_paginator("list_training_jobs").paginate(
                PaginationConfig={"PageSize": 100}
            )
            async for page in pages:
                done += sum(await asyncio.gather(*map(read, page["TrainingJobSummaries"])))
            return done

    return asyncio.run(main())


def floor() -> int:
    """The least a describe can cost here: sign with botocore, post with aiohttp, orjson.loads."""
    import aiohttp
    import orjson
    import uvloop
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    url = os.environ["AWS_ENDPOINT_URL"] + "/"
    keys = Credentials(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
    signer = SigV4Auth(keys, "sagemaker", REGION)

    async def main() -> int:
        bundle = os.environ.get("AWS_CA_BUNDLE")
        trust = ssl.create_default_context(cafile=bundle) if bundle else True
        connector = aiohttp.TCPConnector(limit=64, ssl=trust)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def call(operation: str, params: dict[str, Any]) -> Any:
                body = orjson.dumps(params)
                headers = {
                    "content-type": "application/x-amz-json-1.1",
                    "x-amz-target": f"SageMaker.{operation}",
                }
                request = AWSRequest("POST", url, headers=headers, data=body)
                signer.add_auth(request)
                async with session.post(url, data=body, headers=dict(request.headers)) as answer:
                    return orjson.loads(await answer.read())

            done, token = 0, {}
            names: list[str] = []

            async def worker() -> None:
                nonlocal done
                while names:
                    await call("DescribeTrainingJob", {"TrainingJobName": names.pop()})
                    done += 1

            while True:
                page = await call("ListTrainingJobs", {"MaxResults": 100, **token})
                names += [item["TrainingJobName"] for item in page["TrainingJobSummaries"]]
                await asyncio.gather(*(worker() for _ in range(64)))
                if not page.get("NextToken"):
                    return done
                token = {"NextToken": page["NextToken"]}

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


CONTENDERS: dict[str, Callable[[], int]] = {
    "boto3, 16 threads": boto3_threads,
    "aiobotocore, semaphore": aiobotocore_semaphore,
    "floor: sign, post, loads": floor,
}

if __name__ == "__main__":
    start = time.perf_counter()
    print(CONTENDERS[sys.argv[1]](), round(time.perf_counter() - start, 2))
