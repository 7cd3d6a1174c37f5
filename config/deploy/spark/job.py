"""A Spark job that keeps a lake of training jobs fresh; `emr-serverless.yaml` schedules it.

    spark-submit job.py --lake s3://lake/jobs accounts=organization roleName=InventoryReader

Each run appends what was created or changed since the last one, and ends. With --batch it writes
everything anew instead. What follows the lake are options of the data source, as name=value.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pyspark.sql import SparkSession

from collector.spark import register

TABLE = "aws_sagemaker_trainingjob"


def read_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Training jobs into Parquet.")
    parser.add_argument("--lake", required=True, metavar="URI", help="folder to write below")
    parser.add_argument("--batch", action="store_true", help="everything, in place of what is new")
    parser.add_argument("options", nargs="*", metavar="name=value")
    given = parser.parse_args(arguments)
    for option in given.options:
        if "=" not in option:
            parser.error(f"{option} is not of the form name=value")
    return given


def main() -> None:
    given = read_arguments()
    options = dict(option.split("=", 1) for option in given.options)
    spark = SparkSession.builder.appName(TABLE).getOrCreate()
    spark.conf.set("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
    register(spark)
    if given.batch:
        jobs = spark.read.format(TABLE).options(**options).load()
        jobs.write.mode("overwrite").partitionBy("account_id").parquet(f"{given.lake}/jobs")
    else:
        changes = spark.readStream.format(TABLE).options(**options).load()
        writer = changes.writeStream.format("parquet").partitionBy("account_id")
        writer = writer.option("checkpointLocation", f"{given.lake}/checkpoint")
        query = writer.trigger(availableNow=True).start(f"{given.lake}/changes")
        query.awaitTermination()  # raises what has failed: the run fails, and the next goes on
    spark.stop()


if __name__ == "__main__":
    main()
