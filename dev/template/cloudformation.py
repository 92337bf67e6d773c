"""What CloudFormation makes of template.yaml for each choice of parameters, computed without AWS."""

import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samcli.lib.cfn_language_extensions.sam_integration import expand_language_extensions
from samcli.yamlhelper import yaml_parse
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

ROOT = Path(__file__).parents[2]

DATABASE = {"DatabaseUrl": "postgres://db.example.com:5432/mydb"}
SECRET = {"DatabaseSecret": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:users-AbCdEf"}
JWT = {"Authorization": "JWT", "JwtIssuer": "https://issuer.example.com", "JwtAudience": "users,admin"}
READ, WRITE = {"JwtReadScopes": "users/read,users/all"}, {"JwtWriteScopes": "users/write"}

# The decisions, their options and the parameters that each option sets. No other parameter occurs in a condition.
DECISIONS: dict[str, dict[str, dict[str, Any]]] = {
    "database": {
        "kept": {},
        "disposable": {"KeepData": "false"},
        "rds": DATABASE | {"DatabaseResourceId": "db-ABC", "DatabaseOwner": "boss"},
        "proxy": DATABASE | {"DatabaseResourceId": "prx-ABC", "DatabaseOwner": "boss"},
        "password": DATABASE | SECRET,
        "password of a version": DATABASE | SECRET | {"DatabaseSecretVersion": "01234567-89ab-cdef"},
    },
    "authorization": {
        "IAM": {},
        "JWT": JWT,
        "JWT, read scopes": JWT | READ,
        "JWT, write scopes": JWT | WRITE,
        "JWT, scopes": JWT | READ | WRITE,
        "NONE": {"Authorization": "NONE"},
    },
    "origins": {"none": {}, "some": {"CorsOrigins": "https://one.example.com,https://two.example.com"}},
    "network": {
        "none": {},
        "own": {"SubnetIds": "subnet-01234567,subnet-89abcdef", "SecurityGroupIds": "sg-01234567"},
    },
    "authorities": {"public": {}, "own": {"CaBundleLayer": "arn:aws:lambda:eu-central-1:123456789012:layer:ca:1"}},
    "concurrency": {"shared": {}, "reserved": {"ReservedConcurrency": "5"}},
    "alarms": {
        "unheard": {},
        "topic": {"AlarmTopic": "arn:aws:sns:eu-central-1:123456789012:alarms"},
        "e-mail": {"AlarmEmail": "ops@example.com"},
    },
}


LAYER = ROOT / yaml_parse((ROOT / "template.yaml").read_text())["Resources"]["Tls"]["Properties"]["ContentUri"]


def read() -> dict[str, Any]:
    """template.yaml as SAM reads it, with its code already uploaded."""
    template = yaml_parse((ROOT / "template.yaml").read_text())
    template["Globals"]["Function"]["CodeUri"] = "s3://bucket/key"
    template["Resources"]["Tls"]["Properties"]["ContentUri"] = "s3://bucket/layer"
    return template


SOURCE = read()
# SAM leaves the conditions to CloudFormation, so one translation covers every choice.
TRANSLATED = json.loads(json.dumps(Translator({}, Parser()).translate(read(), parameter_values={})))


@dataclass
class Stack:
    """What CloudFormation executes for some decisions: without parameters and conditions."""

    decided: dict[str, str]
    conditions: dict[str, bool]
    template: dict[str, Any]

    def of_type(self, kind: str) -> dict[str, dict[str, Any]]:
        """The properties of all resources of a type, by name."""
        return {
            name: resource.get("Properties", {})
            for name, resource in self.template["Resources"].items()
            if resource["Type"] == kind
        }


def parameters(chosen: dict[str, Any]) -> dict[str, Any]:
    """The values of all parameters."""
    return {name: it["Default"] for name, it in SOURCE["Parameters"].items()} | chosen


def invalid(values: dict[str, Any]) -> list[str]:
    """The parameters whose values CloudFormation rejects, and the descriptions of the rules that they violate."""
    found = []
    for name, it in SOURCE["Parameters"].items():
        allowed = [str(value) for value in it.get("AllowedValues", [values[name]])]
        if str(values[name]) not in allowed or not re.search(it.get("AllowedPattern", ""), str(values[name])):
            found.append(name)
    for rule in SOURCE["Rules"].values():
        if evaluate(rule.get("RuleCondition", True), values):
            found += [it["AssertDescription"] for it in rule["Assertions"] if not evaluate(it["Assert"], values)]
    return found


def evaluate(expression: Any, values: dict[str, Any]) -> Any:
    """The value of an expression of a condition or a rule."""
    if not isinstance(expression, dict):
        return expression
    [(function, operands)] = expression.items()
    if function == "Ref":
        return values[operands]
    if function == "Condition":
        return evaluate(SOURCE["Conditions"][operands], values)
    operands = [evaluate(it, values) for it in operands]
    return {
        "Fn::Equals": lambda: str(operands[0]) == str(operands[1]),
        "Fn::Not": lambda: not operands[0],
        "Fn::And": lambda: all(operands),
        "Fn::Or": lambda: any(operands),
        "Fn::Split": lambda: operands[1].split(operands[0]),
        "Fn::Select": lambda: operands[1][operands[0]],
    }[function]()


NOTHING = object()


def resolve(node: Any, values: dict[str, Any], conditions: dict[str, bool]) -> Any:
    """A part of a template resolved for these values; whatever depends on a resource stays as is."""
    if isinstance(node, list):
        resolved = [resolve(it, values, conditions) for it in node]
        return [it for it in resolved if it is not NOTHING]
    if not isinstance(node, dict):
        return node
    if node.get("Ref") == "AWS::NoValue":
        return NOTHING
    if node.get("Ref") in values:
        return values[node["Ref"]]
    if "Fn::If" in node:
        condition, yes, no = node["Fn::If"]
        return resolve(yes if conditions[condition] else no, values, conditions)
    resolved = {name: resolve(it, values, conditions) for name, it in node.items()}
    resolved = {name: it for name, it in resolved.items() if it is not NOTHING}
    if "Fn::Split" in resolved:
        delimiter, text = resolved["Fn::Split"]
        return text.split(delimiter)
    if "Fn::Sub" not in resolved:
        return resolved
    text, variables = resolved["Fn::Sub"] if isinstance(resolved["Fn::Sub"], list) else (resolved["Fn::Sub"], {})
    known = values | {name: plain(it) for name, it in variables.items()}
    text = re.sub(r"\$\{(\w+)\}", lambda it: str(known.get(it[1], it[0])), text)
    return {"Fn::Sub": text} if "${" in text else text


def plain(node: Any) -> Any:
    """A resolved part of a template, with every reference written as in Fn::Sub."""
    if isinstance(node, list):
        return [plain(it) for it in node]
    if not isinstance(node, dict):
        return node
    if "Ref" in node:
        return "${%s}" % node["Ref"]
    if "Fn::GetAtt" in node:
        return "${%s}" % ".".join(node["Fn::GetAtt"])
    return node["Fn::Sub"] if "Fn::Sub" in node else {name: plain(it) for name, it in node.items()}


def stack(decided: dict[str, str]) -> Stack | None:
    """The stack for these decisions, or None if the rules reject them."""
    chosen = [DECISIONS[question][decision] for question, decision in decided.items()]
    values = parameters({name: value for it in chosen for name, value in it.items()})
    if invalid(values):
        return None
    conditions = {name: evaluate(it, values) for name, it in SOURCE["Conditions"].items()}
    template = {}
    for section in ("Resources", "Outputs"):
        wanted = {
            name: {member: part for member, part in it.items() if member != "Condition"}
            for name, it in TRANSLATED[section].items()
            if conditions.get(it.get("Condition"), True)
        }
        template[section] = resolve(wanted, values, conditions)
    return Stack(decided, conditions, template)


def covering(stacks: list[Stack]) -> list[Stack]:
    """A few of the stacks that together contain every resource and output in every form that it takes in any stack."""
    forms = [
        {(name, json.dumps(it)) for section in stack.template.values() for name, it in section.items()}
        for stack in stacks
    ]
    missing, chosen = set().union(*forms), []
    while missing:
        best = max(range(len(stacks)), key=lambda index: len(forms[index] & missing))
        chosen.append(stacks[best])
        missing -= forms[best]
    return chosen


def references(node: Any) -> set[str]:
    """The names of the resources and pseudo parameters that a part of a template refers to."""
    if isinstance(node, list):
        return set().union(*map(references, node))
    if not isinstance(node, dict):
        return set()
    if "Ref" in node:
        return {node["Ref"]}
    if "Fn::GetAtt" in node:
        return {node["Fn::GetAtt"][0]}
    if "Fn::Sub" in node:
        return set(re.findall(r"\$\{([\w:]+)", node["Fn::Sub"]))
    depends = node.get("DependsOn", [])
    return set().union([depends] if isinstance(depends, str) else depends, *map(references, node.values()))


def expanded(chosen: dict[str, Any]) -> dict[str, Any]:
    """What SAM's implementation of the transform AWS::LanguageExtensions makes of template.yaml."""
    return expand_language_extensions(read(), parameters(chosen), enabled=True).expanded_template


STACKS = [it for it in (stack(dict(zip(DECISIONS, it))) for it in itertools.product(*DECISIONS.values())) if it]
