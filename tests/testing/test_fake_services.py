import time
from datetime import UTC, datetime

import pytest
from botocore.exceptions import ClientError
from fake_clients import ACCOUNT, REGION, Connect, session_options

from collector.testing import Estate, FakeAws

ASCENDING = {"SortBy": "CreationTime", "SortOrder": "Ascending"}


@pytest.fixture
async def aws():
    async with FakeAws(Estate.generate(jobs=250)) as server:
        yield server


def names(estate: Estate) -> list[str]:
    return list(estate.jobs(ACCOUNT, REGION))


async def listed(client, **params) -> list[list[dict]]:
    """Every page of ListTrainingJobs."""
    pages = []
    while True:
        answer = await client.list_training_jobs(**params)
        pages.append(answer["TrainingJobSummaries"])
        if "NextToken" not in answer:
            return pages
        params["NextToken"] = answer["NextToken"]


def flat(pages: list[list[dict]]) -> list[str]:
    return [summary["TrainingJobName"] for page in pages for summary in page]


async def error_of(call) -> dict:
    with pytest.raises(ClientError) as caught:
        await call
    return caught.value.response["Error"]


@pytest.mark.parametrize("size", [1, 7, 50, 100])
async def test_every_job_is_listed_once_in_order(aws, connect: Connect, size):
    """Pages of any size hold every job once, oldest first, also where times are equal."""
    pages = await listed(await connect(aws), MaxResults=size, **ASCENDING)
    assert flat(pages) == names(aws.estate)
    assert all(len(page) == size for page in pages[:-1])


async def test_a_list_without_parameters_has_ten_jobs_oldest_first(aws, connect: Connect):
    """The API's defaults hold: ten to a page, by creation time."""
    page = await (await connect(aws)).list_training_jobs()
    assert flat([page["TrainingJobSummaries"]]) == names(aws.estate)[:10]


@pytest.mark.parametrize("by", ["CreationTime", "Name", "Status"])
async def test_lists_are_sorted_as_asked(aws, connect: Connect, by):
    """Each order, up and down, lists every job once."""
    client = await connect(aws)
    up = await listed(client, MaxResults=60, SortBy=by, SortOrder="Ascending")
    down = await listed(client, MaxResults=60, SortBy=by, SortOrder="Descending")
    assert flat(up) == flat(down)[::-1]
    assert sorted(flat(up)) == sorted(names(aws.estate))
    values = [
        summary["TrainingJobStatus" if by == "Status" else "TrainingJobName"]
        for page in up
        for summary in page
    ]
    assert by == "CreationTime" or values == sorted(values)


async def test_creation_filters_are_exact_and_exclusive(aws, connect: Connect):
    """A window leaves out jobs that were created at its very bounds."""
    client = await connect(aws)
    summaries = [aws.estate.summary(ACCOUNT, REGION, name) for name in names(aws.estate)]
    low, high = (int(summaries[n]["CreationTime"]) for n in (50, 180))
    pages = await listed(
        client,
        MaxResults=100,
        CreationTimeAfter=datetime.fromtimestamp(low, UTC),
        CreationTimeBefore=datetime.fromtimestamp(high, UTC),
        **ASCENDING,
    )
    expected = [s["TrainingJobName"] for s in summaries if low < s["CreationTime"] < high]
    assert flat(pages) == expected
    aws.estate.add_job(ACCOUNT, REGION, name="on-the-dot", creation_time=low)
    pages = await listed(client, MaxResults=100, CreationTimeAfter=low, CreationTimeBefore=high)
    assert flat(pages) == expected


async def test_other_filters_thin_out_pages_that_were_already_chosen(aws, connect: Connect):
    """StatusEquals and NameContains leave pages short, or empty with a NextToken."""
    pages = await listed(
        await connect(aws), MaxResults=10, StatusEquals="Failed", NameContains="xgboost"
    )
    assert len(pages) == 25
    assert any(not page for page in pages[:-1])
    expected = [
        name
        for name in names(aws.estate)
        if "xgboost" in name
        and aws.estate.summary(ACCOUNT, REGION, name)["TrainingJobStatus"] == "Failed"
    ]
    assert expected
    assert flat(pages) == expected


async def test_a_token_belongs_to_its_request(aws, connect: Connect):
    """A NextToken is refused with other filters, in another region, or when it is made up."""
    client = await connect(aws)
    token = (await client.list_training_jobs(**ASCENDING))["NextToken"]
    await client.list_training_jobs(NextToken=token, MaxResults=50, **ASCENDING)
    for params in ({}, {**ASCENDING, "StatusEquals": "Failed"}):
        error = await error_of(client.list_training_jobs(NextToken=token, **params))
        assert error["Code"] == "ValidationException"
        assert "NextToken" in error["Message"]
    elsewhere = await connect(aws, region="us-east-1")
    assert await error_of(elsewhere.list_training_jobs(NextToken=token, **ASCENDING))
    assert await error_of(client.list_training_jobs(NextToken="made up"))


async def test_pages_go_on_from_a_job_that_has_been_deleted(aws, connect: Connect):
    """Tokens carry a place in the order, so changes between pages lose and repeat nothing."""
    client = await connect(aws)
    before = names(aws.estate)
    first = await client.list_training_jobs(MaxResults=100, **ASCENDING)
    aws.estate.delete_job(ACCOUNT, REGION, before[99])
    aws.estate.delete_job(ACCOUNT, REGION, before[3])
    aws.estate.add_job(ACCOUNT, REGION, name="brand-new")
    rest = await listed(client, MaxResults=100, NextToken=first["NextToken"], **ASCENDING)
    assert flat(rest) == [*before[100:], "brand-new"]


@pytest.mark.parametrize(
    ("service", "operation", "params", "code"),
    [
        ("sagemaker", "list_training_jobs", {"MaxResults": 101}, "ValidationException"),
        ("sagemaker", "list_training_jobs", {"MaxResults": 0}, "ValidationException"),
        ("sagemaker", "list_training_jobs", {"SortBy": "Age"}, "ValidationException"),
        ("sagemaker", "list_training_jobs", {"StatusEquals": "Done"}, "ValidationException"),
        ("sagemaker", "list_training_jobs", {"NameContains": "no blank"}, "ValidationException"),
        ("sagemaker", "describe_training_job", {}, "ValidationException"),
        ("sagemaker", "describe_training_job", {"TrainingJobName": "-"}, "ValidationException"),
        ("sagemaker", "describe_training_job", {"TrainingJobName": "gone"}, "ValidationException"),
        ("sagemaker", "list_tags", {"ResourceArn": "arn:nonsense"}, "ValidationException"),
        ("sagemaker", "create_model", {}, "UnknownOperationException"),
        ("organizations", "list_accounts", {"MaxResults": 21}, "InvalidInputException"),
        (
            "organizations",
            "list_accounts_for_parent",
            {"ParentId": "ou-abcd-99999999"},
            "ParentNotFoundException",
        ),
        ("account", "list_regions", {"MaxResults": 51}, "ValidationException"),
        ("ec2", "describe_regions", {"RegionNames": ["mars-1"]}, "InvalidParameterValue"),
    ],
)
async def test_bad_requests_are_refused(aws, connect: Connect, *, service, operation, params, code):
    """Each service checks its parameters and answers with its own error code."""
    call = getattr(await connect(aws, service), operation)
    assert (await error_of(call(**params)))["Code"] == code


async def test_an_unknown_job_is_not_found_as_sagemaker_puts_it(aws, connect: Connect):
    """DescribeTrainingJob and ListTags of a job that is not there tell so in known words."""
    client = await connect(aws)
    error = await error_of(client.describe_training_job(TrainingJobName="nope"))
    assert error == {"Code": "ValidationException", "Message": "Requested resource not found."}
    arn = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:training-job/nope"
    assert await error_of(client.list_tags(ResourceArn=arn)) == error


async def test_descriptions_arrive_as_the_estate_has_them(aws, connect: Connect):
    """Times survive the service's scientific notation to the millisecond, and numbers exactly."""
    client = await connect(aws)
    for name in names(aws.estate)[:40]:
        answer = await client.describe_training_job(TrainingJobName=name)
        wire = aws.estate.describe(ACCOUNT, REGION, name)
        assert answer["CreationTime"].timestamp() == wire["CreationTime"]
        assert answer.get("HyperParameters") == wire.get("HyperParameters")
        assert answer.get("Environment") == wire.get("Environment")
        assert len(answer.get("SecondaryStatusTransitions", [])) == len(
            wire.get("SecondaryStatusTransitions", [])
        )
        for got, sent in zip(
            answer.get("InputDataConfig", []), wire.get("InputDataConfig", []), strict=True
        ):
            assert got.get("ShuffleConfig") == sent.get("ShuffleConfig")


async def test_tags_come_in_pages_of_fifty(aws, connect: Connect):
    """ListTags gives 50 at a time and the rest behind a NextToken; fewer than 50 is refused."""
    client = await connect(aws)
    name = names(aws.estate)[42]
    arn = aws.estate.summary(ACCOUNT, REGION, name)["TrainingJobArn"]
    error = await error_of(client.list_tags(ResourceArn=arn, MaxResults=49))
    assert error["Code"] == "ValidationException"
    assert "greater than or equal to 50" in error["Message"]
    first = await client.list_tags(ResourceArn=arn, MaxResults=100)
    rest = await client.list_tags(ResourceArn=arn, NextToken=first["NextToken"])
    tags = {tag["Key"]: tag["Value"] for tag in first["Tags"] + rest["Tags"]}
    assert len(first["Tags"]) == 50
    assert "NextToken" not in rest
    assert tags == aws.estate.tags(ACCOUNT, REGION, name)


async def test_get_resources_returns_tagged_jobs_only(aws, connect: Connect):
    """A hundred ARNs in one call, answered for those that have tags and exist here."""
    client = await connect(aws, "resourcegroupstaggingapi")
    wanted = names(aws.estate)[:99]
    arns = [aws.estate.summary(ACCOUNT, REGION, name)["TrainingJobArn"] for name in wanted]
    elsewhere = arns[4].replace(REGION, "us-east-1")
    answer = await client.get_resources(ResourceARNList=[*arns, elsewhere])
    assert answer["PaginationToken"] == ""
    got = {
        item["ResourceARN"].rpartition("/")[2]: {tag["Key"]: tag["Value"] for tag in item["Tags"]}
        for item in answer["ResourceTagMappingList"]
    }
    tags = {name: aws.estate.tags(ACCOUNT, REGION, name) for name in wanted}
    assert got == {name: tag for name, tag in tags.items() if tag}


@pytest.mark.parametrize(
    "extra",
    [
        {"ResourcesPerPage": 50},
        {"TagsPerPage": 100},
        {"PaginationToken": "x"},
        {"TagFilters": [{"Key": "team"}]},
        {"ResourceTypeFilters": ["sagemaker:training-job"]},
    ],
)
async def test_arns_go_alone_and_a_hundred_at_most(aws, connect: Connect, extra):
    """ARNs beside any other parameter, malformed ones and more than 100 are refused."""
    client = await connect(aws, "resourcegroupstaggingapi")
    arn = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:training-job/x"
    for params in (
        {"ResourceARNList": [arn], **extra},
        {"ResourceARNList": [f"{arn}{n}" for n in range(101)]},
        {"ResourceARNList": ["no-arn"]},
    ):
        error = await error_of(client.get_resources(**params))
        assert error["Code"] == "InvalidParameterException"


async def test_get_resources_can_page_through_everything(aws, connect: Connect):
    """Without ARNs it lists all tagged jobs, filtered by tag, page after page."""
    client = await connect(aws, "resourcegroupstaggingapi")
    params = {
        "ResourceTypeFilters": ["sagemaker:training-job"],
        "TagFilters": [{"Key": "team", "Values": ["vision"]}],
        "ResourcesPerPage": 20,
    }
    got = []
    while True:
        answer = await client.get_resources(**params)
        got += [item["ResourceARN"].rpartition("/")[2] for item in answer["ResourceTagMappingList"]]
        if not answer["PaginationToken"]:
            break
        params["PaginationToken"] = answer["PaginationToken"]
    estate = aws.estate
    expected = [
        name for name in names(estate) if estate.tags(ACCOUNT, REGION, name).get("team") == "vision"
    ]
    assert len(expected) > 20
    assert got == expected


async def test_the_tag_index_lags_behind(connect: Connect):
    """Jobs younger than the lag are missing from GetResources while ListTags has their tags."""
    now = time.time()
    async with FakeAws(Estate.generate(now=now), tag_index_lag=3600) as aws:
        for name, age in (("young", 60), ("old", 7200)):
            aws.estate.add_job(ACCOUNT, REGION, name=name, creation_time=now - age, tags={"k": "v"})
        arns = [
            aws.estate.summary(ACCOUNT, REGION, name)["TrainingJobArn"] for name in ("young", "old")
        ]
        client = await connect(aws, "resourcegroupstaggingapi")
        answer = await client.get_resources(ResourceARNList=arns)
        assert [item["ResourceARN"] for item in answer["ResourceTagMappingList"]] == arns[1:]
        tags = await (await connect(aws)).list_tags(ResourceArn=arns[0])
        assert tags["Tags"] == [{"Key": "k", "Value": "v"}]


async def test_an_organization_is_walked_from_its_root(connect: Connect):
    """Accounts come twenty to a page, and by parent they add up to the whole."""
    async with FakeAws(Estate.generate(45, (REGION,), 1, suspended=3)) as aws:
        client = await connect(aws, "organizations")
        accounts, token, pages = [], {}, 0
        while True:
            answer = await client.list_accounts(**token)
            accounts += answer["Accounts"]
            pages += 1
            if "NextToken" not in answer:
                break
            token = {"NextToken": answer["NextToken"]}
        assert pages == 3
        assert len({account["Id"] for account in accounts}) == 48
        assert sum(account["Status"] == "SUSPENDED" for account in accounts) == 3
        below = []
        parents = [(await client.list_roots())["Roots"][0]["Id"]]
        for parent in parents:
            units = await client.list_organizational_units_for_parent(ParentId=parent)
            parents += [unit["Id"] for unit in units["OrganizationalUnits"]]
            paginator = client.get_paginator("list_accounts_for_parent")
            async for page in paginator.paginate(ParentId=parent):
                below += [account["Id"] for account in page["Accounts"]]
        assert len(parents) == 4
        assert sorted(below) == sorted(account["Id"] for account in accounts)
        described = await client.describe_organization()
        assert described["Organization"]["MasterAccountId"] == ACCOUNT


async def test_only_the_management_account_lists_the_organization(aws, connect: Connect):
    """A member is refused; where there is no organization everybody learns that."""
    member = await connect(aws, "organizations", account="222222222222")
    assert (await error_of(member.list_accounts()))["Code"] == "AccessDeniedException"
    aws.policy.organization = False
    client = await connect(aws, "organizations")
    code = (await error_of(client.list_accounts()))["Code"]
    assert code == "AWSOrganizationsNotInUseException"


async def test_regions_that_are_not_enabled_are_listed_as_such_or_not_at_all(connect: Connect):
    """Both services leave such a region out, and show it as disabled only on request."""
    estate = Estate.generate(2, ("us-east-1", "eu-south-1", REGION), 1)
    async with FakeAws(estate, not_enabled={(ACCOUNT, "eu-south-1")}) as aws:
        account, ec2 = await connect(aws, "account"), await connect(aws, "ec2")

        async def seen() -> tuple[dict, dict]:
            mine = (await account.list_regions())["Regions"]
            every = (await ec2.describe_regions(AllRegions=True))["Regions"]
            return (
                {region["RegionName"]: region["RegionOptStatus"] for region in mine},
                {region["RegionName"]: region["OptInStatus"] for region in every},
            )

        mine, every = await seen()
        assert mine == {"us-east-1": "ENABLED_BY_DEFAULT", REGION: "ENABLED_BY_DEFAULT"}
        assert set(every) == set(mine)
        aws.policy.list_not_enabled = True
        mine, every = await seen()
        assert mine["eu-south-1"] == "DISABLED"
        assert every["eu-south-1"] == "not-opted-in"
        enabled = await account.list_regions(
            RegionOptStatusContains=["ENABLED", "ENABLED_BY_DEFAULT"]
        )
        assert len(enabled["Regions"]) == 2
        assert len((await ec2.describe_regions())["Regions"]) == 2
        other = await connect(aws, "account", account="222222222222")
        statuses = [r["RegionOptStatus"] for r in (await other.list_regions())["Regions"]]
        assert statuses == ["ENABLED_BY_DEFAULT", "ENABLED", "ENABLED_BY_DEFAULT"]


async def test_another_partition_shows_in_every_arn(connect: Connect):
    """An estate of aws-cn names itself in jobs, callers and roles, and refuses others' roles."""
    estate = Estate.generate(2, ("cn-north-1",), 20, partition="aws-cn")
    async with FakeAws(estate) as aws:
        sts = await connect(aws, "sts", region="cn-north-1")
        assert (await sts.get_caller_identity())["Arn"].startswith("arn:aws-cn:iam::")
        role = "arn:aws-cn:iam::222222222222:role/R"
        answer = await sts.assume_role(RoleArn=role, RoleSessionName="tests")
        options = session_options(answer["Credentials"])
        client = await connect(aws, region="cn-north-1", **options)
        page = await client.list_training_jobs()
        assert page["TrainingJobSummaries"][0]["TrainingJobArn"].startswith("arn:aws-cn:sagemaker")
        assert await error_of(
            sts.assume_role(RoleArn=role.replace("aws-cn", "aws"), RoleSessionName="tests")
        )
