"""Processing jobs of Amazon SageMaker: what a third party writes to have another table."""

from __future__ import annotations

from collector.model import (
    DescribeOperation,
    ListOperation,
    Table,
    TagsOperation,
    float64,
    int32,
    string,
    string_map,
    strings,
    struct,
    structs,
    timestamp,
)

TABLE = Table(
    name="processing_jobs",
    service="sagemaker",
    list=ListOperation(
        name="ListProcessingJobs",
        items="ProcessingJobSummaries",
        params={"SortBy": "CreationTime", "SortOrder": "Ascending"},
    ),
    describe=DescribeOperation(
        name="DescribeProcessingJob",
        params={"ProcessingJobName": "ProcessingJobName"},
        required=("ProcessingJobName", "ProcessingJobArn", "CreationTime"),
        not_found=(("ResourceNotFound", ""), ("ValidationException", "Could not find")),
    ),
    tags=TagsOperation(name="ListTags"),
    arn="ProcessingJobArn",
    created="CreationTime",
    modified="LastModifiedTime",
    status="ProcessingJobStatus",
    statuses=("InProgress", "Completed", "Failed", "Stopping", "Stopped"),
    terminal=("Completed", "Failed", "Stopped"),
    arn_format="arn:{partition}:sagemaker:{region}:{account_id}:processing-job/{name}",
    iam_actions=(
        "sagemaker:ListProcessingJobs",
        "sagemaker:DescribeProcessingJob",
        "sagemaker:ListTags",
    ),
    sensitive=("environment",),
    columns=(
        string("account_id", None, "The account."),
        struct(
            "app_specification",
            "AppSpecification",
            "The image.",
            strings("container_arguments", "ContainerArguments", "Its arguments."),
            string("image_uri", "ImageUri", "Its registry path."),
        ),
        timestamp("creation_time", "CreationTime", "When it was created."),
        string_map("environment", "Environment", "Its environment."),
        structs(
            "processing_inputs",
            "ProcessingInputs",
            "What it reads.",
            string("input_name", "InputName", "Name of the input."),
            struct("s3_input", "S3Input", "In S3.", string("s3_uri", "S3Uri", "The prefix.")),
        ),
        string("processing_job_arn", "ProcessingJobArn", "Its ARN."),
        string("processing_job_name", "ProcessingJobName", "Its name."),
        string("processing_job_status", "ProcessingJobStatus", "Its state."),
        float64("score", "Score", "A figure."),
        struct(
            "stopping_condition",
            "StoppingCondition",
            "When it is stopped.",
            int32("max_runtime_in_seconds", "MaxRuntimeInSeconds", "Seconds."),
        ),
        strings("tags", None, "Its tags."),
    ),
)
