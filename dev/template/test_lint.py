"""cfn-lint and checkov find nothing in the stacks that template.yaml can produce.

`cargo xtask check` runs the tests in this folder, with the libraries of the SAM CLI, including cfn-lint, and with
CHECKOV set to the folder that contains checkov and its libraries.
"""

import graphlib
import json
import os
import subprocess
import sys
import tempfile
import unittest
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from cfnlint.api import lint
from cfnlint.config import ManualArgs
from cloudformation import STACKS, TRANSLATED, covering, references

# What checkov asks for and this project doesn't do, with reasons.
SUPPRESSED = {
    # Reserved concurrency
    "CKV_AWS_115": "It reduces what is left for the account's other functions, and a new account has none to spare: "
    "ReservedConcurrency leaves the decision to the user.",
    # Dead letter queue
    "CKV_AWS_116": "Endpoints are invoked synchronously: their callers see failures. A failed run of Migrate raises an "
    "alarm, and later hourly runs delete what it left.",
    # VPC
    "CKV_AWS_117": "Aurora DSQL can be reached from anywhere, with TLS and IAM, and a VPC would add the cost of a NAT "
    "gateway: SubnetIds is for a database that needs one.",
    # KMS key of a log group
    "CKV_AWS_158": "CloudWatch encrypts logs with its own key, and no record contains stored user data: a customer "
    "managed key would only add cost.",
    # KMS key of the environment
    "CKV_AWS_173": "Lambda encrypts the environment with its own key, and the only secret in it is the password of a "
    "database without IAM authentication.",
    # KMS key of a topic
    "CKV_AWS_26": "CloudWatch can't publish to a topic encrypted with SNS's default key, and a message contains only "
    "the state of an alarm.",
}


def findings(template: str) -> list[str]:
    return [f"{it.rule.id} {it.message} {it.path}" for it in lint(template, config=ManualArgs(regions=["us-east-1"]))]


class Lint(unittest.TestCase):
    def test_cfn_lint_accepts_the_translation(self):
        self.assertEqual(findings(json.dumps(TRANSLATED)), [])

    def test_cfn_lint_accepts_every_stack(self):
        # All stacks would take a quarter of an hour. But cfn-lint judges a resource by its content and by what it
        # refers to: here each resource is linted in every form that it takes in any stack, and the next test follows
        # every reference.
        templates = [json.dumps(it.template) for it in covering(STACKS)]
        with ProcessPoolExecutor() as pool:
            for found in pool.map(findings, templates):
                self.assertEqual(found, [])

    def test_every_reference_leads_to_a_resource_and_none_in_a_circle(self):
        for stack in STACKS:
            with self.subTest(**stack.decided):
                resources = stack.template["Resources"]
                graph = {name: references(it) for name, it in resources.items()}
                for name, referred in [*graph.items(), ("Outputs", references(stack.template["Outputs"]))]:
                    missing = {it for it in referred if it not in resources and not it.startswith("AWS::")}
                    self.assertEqual(missing, set(), name)
                graphlib.TopologicalSorter(graph).prepare()

    def test_checkov_finds_nothing_but_what_is_suppressed_for_a_reason(self):
        folder = Path(os.environ["CHECKOV"])
        with tempfile.TemporaryDirectory() as templates:
            for number, stack in enumerate(covering(STACKS)):
                Path(templates, f"{number}.json").write_text(json.dumps(stack.template))
            run = subprocess.run(
                [sys.executable, folder / "bin/checkov", "--directory", templates, "--framework", "cloudformation"]
                + ["--output", "json", "--quiet", "--compact", "--skip-download"],
                # It needs other versions of libraries than this program.
                env=os.environ | {"PYTHONPATH": str(folder)},
                stdout=subprocess.PIPE,
                check=False,
            )
        report = json.loads(run.stdout)
        self.assertEqual(report["summary"]["parsing_errors"], 0)
        self.assertGreater(report["summary"]["passed"], 0)
        failed = {it["check_id"]: f"{it['check_name']}: {it['resource']}" for it in report["results"]["failed_checks"]}
        unexplained = {check: it for check, it in failed.items() if check not in SUPPRESSED}
        self.assertEqual(unexplained, {})
        self.assertEqual(set(SUPPRESSED) - set(failed), set(), "no longer needed")
