"""Each refusal of AWS is explained in one sentence, with the way out."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from plainpillar import ROOT
from stackctl import refusals
from stackctl.refusals import REFUSALS

REGION = "eu-west-1"
RUNBOOK = (ROOT / "docs" / "runbooks.md").read_text()


def by_driver(code: str, text: str = "words") -> str:
    return f"launching web-1 failed: RunInstances: {code}: {text}; run the same command again: it"


def by_boto3(code: str, text: str = "words") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": text}}, "DescribeVpcs")


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.codes[0])
def test_explanation_has_cause_way_out_and_next_step(refusal: refusals.Refusal) -> None:
    for code in refusal.codes:
        text = refusal.text or "words"
        for said in (by_driver(code, text), str(by_boto3(code, text))):
            explained = refusals.explain(said, REGION)
            assert explained.startswith(refusal.cause[0].upper() + refusal.cause[1:] + ": ")
            assert explained.endswith("; then run the same command again: it goes on from here.")
            assert "{" not in explained
            assert "\n" not in explained


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.codes[0])
def test_runbook_has_an_entry_for_each(refusal: refusals.Refusal) -> None:
    assert all(f"`{code}`" in RUNBOOK for code in refusal.codes)


def test_quota_is_asked_for_by_its_code_in_the_region() -> None:
    explained = refusals.explain(by_driver("VcpuLimitExceeded"), REGION)
    assert "quota L-1216C47A of the service ec2: https://eu-west-1.console.aws.amazon" in explained


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the deploy script ended with 3: the mirror is down",
        by_driver("InvalidParameterCombination", "a subnet and an interface"),
        by_driver("InvalidAMIID.NotFound"),
        "its minion does not answer: Unsupported: Blocked",
    ],
)
def test_other_errors_are_not_explained(text: str) -> None:
    assert refusals.explain(text, REGION) == ""


def test_error_of_boto3_keeps_its_words() -> None:
    error = refusals.as_error(by_boto3("ExpiredToken", "The token is expired."), REGION)
    assert error.what.endswith("calling the DescribeVpcs operation: The token is expired.")
    assert error.hint.startswith("The AWS credentials have ended, or this host's clock is wrong: ")
    missing = refusals.as_error(NoCredentialsError(), REGION)
    assert missing.hint.startswith("aws sts get-caller-identity must answer first; then run")
    other = refusals.as_error(EndpointConnectionError(endpoint_url="https://ec2"), REGION)
    assert (other.what, other.hint) == (
        'Could not connect to the endpoint URL: "https://ec2".', "",
    )  # fmt: skip
