"""Believable values for the members of DescribeTrainingJob.

``VALUES`` maps a member's dotted path, or ``*.Member`` for a member anywhere, to what makes its
value. A maker may answer ``ABSENT``: this job has no such member.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from collector.testing.jobs import TERMINAL, Job

ABSENT: Final = object()
INT64_MAX: Final = 2**63 - 1


@dataclass(slots=True)
class Context:
    """The job that is being described, and chance."""

    job: Job
    account: str
    region: str
    partition: str
    rng: random.Random

    def moment(self) -> float:
        """Some time in the life of the job, in epoch seconds with milliseconds."""
        job = self.job
        return (job.created + int(self.rng.random() * (job.modified - job.created + 1))) / 1000

    def pick(self, *choices: Any) -> Any:
        return choices[int(self.rng.random() * len(choices))]

    def arn(self, service: str, resource: str) -> str:
        return f"arn:{self.partition}:{service}:{self.region}:{self.account}:{resource}"

    def code(self, length: int) -> str:
        return f"{self.rng.getrandbits(4 * length):0{length}x}"

    def s3(self, folder: str) -> str:
        return f"s3://ml-{self.region}-{self.account}/{folder}/{self.job.name}"

    def image(self, name: str) -> str:
        suffix = ".amazonaws.com.cn" if self.partition == "aws-cn" else ".amazonaws.com"
        return f"{self.account}.dkr.ecr.{self.region}{suffix}/{name}"

    def key(self) -> str:
        code = self.code(32)
        return self.arn(
            "kms", f"key/{code[:8]}-{code[8:12]}-4{code[13:16]}-a{code[17:20]}-{code[20:]}"
        )


Maker = Callable[[Context], Any]


def _one_of(*choices: Any) -> Maker:
    return lambda c: c.pick(*choices)


def _time(name: str) -> Maker:
    def make(c: Context) -> Any:
        value = getattr(c.job, name)
        return ABSENT if value is None else value / 1000

    return make


def _seconds(share: float) -> Maker:
    """What was trained, or billed: the job's run, times ``share``; absent while it runs."""

    def make(c: Context) -> Any:
        if c.job.ended is None or c.job.started is None:
            return ABSENT
        return int((c.job.ended - c.job.started) / 1000 * share)

    return make


def _hyper_parameters(c: Context) -> dict[str, str]:
    if c.rng.random() < 0.06:  # noqa: PLR2004 - some jobs have none
        return {}
    chosen = {
        "eta": f"{c.rng.random():.4f}",
        "max_depth": str(c.pick(3, 5, 8)),
        "num_round": str(c.pick(50, 100, 500)),
        "objective": '"reg:squarederror"',
        "sagemaker_program": '"train.py"',
        "sagemaker_submit_directory": f'"{c.s3("source")}/sourcedir.tar.gz"',
        "_tuning_objective_metric": "validation:rmse",
    }
    if c.job.number % 5 == 0:
        chosen["größe_λ"] = "0,5 → naïve 学習率 🚀"
    return chosen


def _environment(c: Context) -> dict[str, str]:
    if c.rng.random() < 0.06:  # noqa: PLR2004 - some jobs have none
        return {}
    chosen = {
        "MLFLOW_TRACKING_URI": "https://mlflow.example.com",
        "API_TOKEN": f"tok_{c.code(24)}",
        "camelCaseKey": "kept as it is",
        "lower.dotted-key": "",
    }
    if c.job.number % 4 == 0:
        chosen["Überschrift_名前"] = 'quote " backslash \\ newline \n end'
    return chosen


def _metrics(c: Context) -> list[dict[str, Any]]:
    if c.rng.random() < 0.06:  # noqa: PLR2004 - some jobs have none
        return []
    special = ("NaN", "Infinity", "-Infinity")
    values: list[Any] = [c.rng.random() * 3, c.rng.random() * 1e-7, 1]
    if c.job.number % 6 == 1:
        values.append(special[c.job.number // 6 % 3])
    names = ("train:loss", "validation:rmse", "epoch", "validation:auc")
    return [
        {"MetricName": name, "Value": value, "Timestamp": c.moment()}
        for name, value in zip(names, values, strict=False)
    ]


def _transitions(c: Context) -> list[dict[str, Any]]:
    """The job's detailed states, one after the other, the last one open while it runs."""
    job = c.job
    steps = ["Starting", "Downloading", "Training", "Uploading"]
    if job.secondary in steps:
        steps = steps[: steps.index(job.secondary) + 1]
    else:
        steps = ["Pending"] if job.secondary == "Pending" else [*steps, job.secondary]
    stretch = (job.modified - job.created) // len(steps)
    found: list[dict[str, Any]] = []
    for number, step in enumerate(steps):
        begin = job.created + number * stretch
        entry: dict[str, Any] = {"Status": step, "StartTime": begin / 1000}
        if step != steps[-1] or job.status in TERMINAL:
            entry["EndTime"] = (begin + stretch) / 1000
        if step != "Pending":
            entry["StatusMessage"] = _MESSAGES.get(step, f"Training job is {step.lower()}")
        found.append(entry)
    return found


_MESSAGES = {
    "Starting": "Preparing the instances for training",
    "Downloading": "Downloading the training image",
    "Training": "Training image download completed. Training in progress.",
    "Uploading": "Uploading generated training model",
    "Completed": "Training job completed",
}

_INSTANCE = _one_of("ml.m5.xlarge", "ml.g5.2xlarge", "ml.p4d.24xlarge", "ml.c5.4xlarge")

VALUES: dict[str, Maker] = {
    "AlgorithmSpecification.AlgorithmName": lambda c: c.arn("sagemaker", "algorithm/ranker"),
    "AlgorithmSpecification.ContainerArguments": lambda _: ["--epochs", "3", "--lr=1e-4"],
    "AlgorithmSpecification.ContainerEntrypoint": lambda _: ["python3", "/opt/ml/code/train.py"],
    "AlgorithmSpecification.MetricDefinitions": lambda _: [
        {"Name": "train:loss", "Regex": r"loss=([0-9\.]+)"},
        {"Name": "validation:rmse", "Regex": r".*\[[0-9]+\].*#011validation-rmse:([-+]?[0-9\.]+)"},
    ],
    "AlgorithmSpecification.TrainingImage": lambda c: c.image("training:2.4-gpu-py311"),
    "*.TrainingRepositoryAccessMode": _one_of("Platform", "Vpc"),
    "*.TrainingRepositoryCredentialsProviderArn": lambda c: c.arn("lambda", "function:registry"),
    "AutoMLJobArn": lambda c: c.arn("sagemaker", f"automl-job/auto-{c.code(6)}"),
    "BillableTimeInSeconds": _seconds(0.7),
    "CreationTime": _time("created"),
    "EnableInterContainerTrafficEncryption": _one_of(True, False),
    "ExperimentConfig.ExperimentName": lambda c: f"experiment-{c.code(4)}",
    "FailureReason": lambda c: (
        f"AlgorithmError: ExecuteUserScriptError:\nExitCode 1, run {c.code(6)}"
        if c.job.status == "Failed"
        else ABSENT
    ),
    "FinalMetricDataList": _metrics,
    "HyperParameters": _hyper_parameters,
    "Environment": _environment,
    "InputDataConfig.ChannelName": _one_of("train", "validation", "test"),
    "InputDataConfig.CompressionType": _one_of("None", "Gzip"),
    "InputDataConfig.ContentType": _one_of("text/csv", "application/x-parquet"),
    "InputDataConfig.RecordWrapperType": _one_of("None", "RecordIO"),
    "InputDataConfig.ShuffleConfig.Seed": lambda c: INT64_MAX - int(c.rng.random() * 4),
    "*.DirectoryPath": lambda _: "/fsx/data",
    "*.FileSystemAccessMode": _one_of("ro", "rw"),
    "*.FileSystemId": lambda c: f"fs-{c.code(17)}",
    "*.FileSystemType": _one_of("EFS", "FSxLustre"),
    "*.HubContentArn": lambda c: c.arn("sagemaker", "hub-content/hub/Model/llama/1.0.0"),
    "*.S3DataDistributionType": _one_of("FullyReplicated", "ShardedByS3Key"),
    "*.S3DataType": _one_of("S3Prefix", "ManifestFile", "AugmentedManifestFile"),
    "*.InputMode": _one_of("File", "Pipe", "FastFile"),
    "*.TrainingInputMode": _one_of("File", "Pipe", "FastFile"),
    "LabelingJobArn": lambda c: c.arn("sagemaker", f"labeling-job/label-{c.code(6)}"),
    "LastModifiedTime": _time("modified"),
    "ModelArtifacts.S3ModelArtifacts": lambda c: f"{c.s3('output')}/output/model.tar.gz",
    "OutputDataConfig.CompressionType": _one_of("GZIP", "NONE"),
    "*.KmsKeyId": lambda c: c.key(),
    "*.VolumeKmsKeyId": lambda c: c.key(),
    "ProfilerConfig.ProfilingIntervalInMilliseconds": _one_of(500, 1000, 60000),
    "ProfilingStatus": _one_of("Enabled", "Disabled"),
    "*.InstanceCount": _one_of(1, 1, 2, 8),
    "*.InstanceGroupName": _one_of("data", "gpu"),
    "*.InstanceType": _INSTANCE,
    "*.KeepAlivePeriodInSeconds": _one_of(600, 1800),
    "*.TrainingPlanArn": lambda c: c.arn("sagemaker", f"training-plan/plan-{c.code(10)}"),
    "*.VolumeSizeInGB": _one_of(0, 30, 100, 500),
    "*.LocalPath": lambda _: "/opt/ml/checkpoints",
    "*.RuleEvaluationJobArn": lambda c: c.arn("sagemaker", f"processing-job/rule-{c.code(8)}"),
    "*.RuleEvaluationStatus": _one_of("InProgress", "NoIssuesFound", "IssuesFound", "Error"),
    "*.RuleEvaluatorImage": lambda c: c.image("sagemaker-debugger-rules:latest"),
    "RetryStrategy.MaximumRetryAttempts": _one_of(1, 3, 30),
    "RoleArn": lambda c: f"arn:{c.partition}:iam::{c.account}:role/service-role/SageMakerRole",
    "SecondaryStatus": lambda c: c.job.secondary,
    "SecondaryStatusTransitions": _transitions,
    "StoppingCondition.MaxRuntimeInSeconds": _one_of(3600, 86400, 432000),
    "*.S3OutputPath": lambda c: c.s3("output"),
    "*.S3Uri": lambda c: c.s3("data"),
    "TrainingEndTime": _time("ended"),
    "TrainingJobArn": lambda c: c.job.arn,
    "TrainingJobName": lambda c: c.job.name,
    "TrainingJobStatus": lambda c: c.job.status,
    "TrainingStartTime": _time("started"),
    "TrainingTimeInSeconds": _seconds(1.0),
    "TuningJobArn": lambda c: c.arn("sagemaker", f"hyper-parameter-tuning-job/hpo-{c.code(6)}"),
    "VpcConfig.SecurityGroupIds": lambda c: [f"sg-{c.code(17)}"],
    "VpcConfig.Subnets": lambda c: [f"subnet-{c.code(17)}", f"subnet-{c.code(17)}"],
    "WarmPoolStatus.Status": _one_of("Available", "Terminated", "Reused", "InUse"),
    "WarmPoolStatus.ReusedByJob": lambda c: f"reuser-{c.code(6)}",
}

REQUIRED = frozenset(
    """
    AlgorithmSpecification AlgorithmSpecification.TrainingInputMode CreationTime
    ModelArtifacts ModelArtifacts.S3ModelArtifacts
    ResourceConfig ResourceConfig.VolumeSizeInGB ResourceConfig.InstanceGroups.InstanceGroupName
    SecondaryStatus StoppingCondition TrainingJobArn TrainingJobName TrainingJobStatus
    InputDataConfig.ChannelName InputDataConfig.DataSource
    InputDataConfig.DataSource.S3DataSource.S3DataType InputDataConfig.DataSource.S3DataSource.S3Uri
    WarmPoolStatus.Status OutputDataConfig.S3OutputPath CheckpointConfig.S3Uri
    """.split()  # noqa: SIM905 - a list would take a line for each
)
"""Members that are there whenever their parent is."""

LIKELY = frozenset(
    """
    AlgorithmSpecification.TrainingImage BillableTimeInSeconds EnableManagedSpotTraining
    EnableInterContainerTrafficEncryption EnableNetworkIsolation Environment FailureReason
    FinalMetricDataList HyperParameters InputDataConfig InputDataConfig.DataSource.S3DataSource
    LastModifiedTime OutputDataConfig ResourceConfig.InstanceCount ResourceConfig.InstanceType
    RoleArn SecondaryStatusTransitions StoppingCondition.MaxRuntimeInSeconds TrainingEndTime
    TrainingStartTime TrainingTimeInSeconds ProfilerConfig ProfilingStatus DebugHookConfig
    ProfilerRuleConfigurations ProfilerRuleEvaluationStatuses VpcConfig
    """.split()  # noqa: SIM905 - a list would take a line for each
)
"""Optional members that most jobs have."""

LEFT_OUT: dict[str, Any] = {
    "BillableTokenCount": 123456,
    "MlflowConfig": {"MlflowResourceArn": "", "MlflowExperimentName": "churn"},
    "MlflowDetails": {"MlflowRunId": "0f3a", "MlflowExperimentId": "7"},
    "ProgressInfo": {"TotalStepCountPerEpoch": 100, "CurrentStep": 40, "CurrentEpoch": 2},
    "ResourceConfig.InstancePlacementConfig": {
        "EnableMultipleJobs": True,
        "PlacementSpecifications": [{"UltraServerId": "us-1", "InstanceCount": 4}],
    },
}
"""Members of the real API, by dotted path, that a table may leave out."""

UNKNOWN: dict[str, Any] = {
    "ZetaConfig": {"ZetaMode": "On", "Depth": {"Level": 3}},
    "ResourceConfig.FluxCapacity": 88,
    "InputDataConfig.HoloLens": ["a", "b"],
}
"""Members that no API has, yet."""
