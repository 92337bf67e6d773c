"""Deploys template.yaml and the output of `sam build` to MiniStack, and uses it as docs/deploy.md says, step by step.

`cargo xtask check deployment` first starts MiniStack with its bridges, PostgreSQL and the token gate. What a user would
do goes through the real SAM CLI, AWS CLI and curl; what a step sets up or looks up goes through boto3, which is faster.
"""

import contextlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import threading
import time
import traceback
import urllib.parse
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import botocore.exceptions
import pg8000.native

ROOT = Path(__file__).parents[2]
WORK = Path(os.environ["WORK"])
TEMPLATE = Path(os.environ["TEMPLATE"])
ENDPOINT = f"http://127.0.0.1:{os.environ['GATEWAY_PORT']}"
REGION = "eu-central-1"
# What this machine can build and run.
ARCHITECTURE = "arm64" if platform.machine() in ("aarch64", "arm64") else "x86_64"
STACK = "users-api"
DISPOSABLE = "users-disposable"  # a stack that is deleted with its data
OWN = "users-own"  # a stack with the user's own PostgreSQL
RDS = f"postgres://db.abcdefghijkl.{REGION}.rds.amazonaws.com:{os.environ['RDS_GATE']}/mydb?hostaddr=127.0.0.1"
SERVER = urllib.parse.urlsplit(os.environ["TEST_DATABASE_URL"])
# The environment of the clients: `xtask` passes on none of the caller's own settings.
ENVIRONMENT = {name: it for name, it in os.environ.items() if name != "PYTHONPATH"} | {
    "AWS_DEFAULT_REGION": REGION,
    "SAM_CLI_TELEMETRY": "0",
    "NO_COLOR": "1",
}
# The root user of MiniStack's account, whose keys are not checked.
ROOT_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
# `sam delete` polls only every 30 seconds, so it runs in the background.
MEANWHILE = ThreadPoolExecutor()
# The database user of each function.
USERS = {
    "ListUsers": "users_reader",
    "CreateUser": "users_creator",
    "GetUser": "users_reader",
    "UpdateUser": "users_updater",
    "DeleteUser": "users_deleter",
}


class Unexpected(Exception):
    """What was expected, and what came instead."""


def expect(what, came, expected):
    if came != expected:
        raise Unexpected(f"{what}\n  expected: {expected}\n  came:     {came}")


def expect_in(what, part, whole):
    if part not in whole:
        raise Unexpected(f"{what}\n  expected to contain: {part}\n  came: {whole[-3000:]}")


# The clients.


def run(command, env, check=True):
    done = subprocess.run(command, env=ENVIRONMENT | env, cwd=WORK, capture_output=True, text=True, check=False)
    if check and done.returncode:
        line = command if isinstance(command, str) else " ".join(map(str, command))
        told = f"{done.stdout[-3000:]}{done.stderr[-3000:]}"
        raise Unexpected(f"{line[:300]}\n  expected: exit code 0\n  came: {done.returncode}\n{told}")
    return done


def tool(name, *arguments, check=True, env=ROOT_KEYS):
    folder = Path(os.environ[f"{name.upper()}_FOLDER"])
    here = {"AWS_ENDPOINT_URL": ENDPOINT, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return run([sys.executable, folder / "bin" / name, *arguments], here | env, check)


def deploy(stack, *parameters, template=TEMPLATE, check=True):
    deployed = tool(
        "sam", "deploy", "--template-file", template, "--config-file", ROOT / "samconfig.toml", "--region", REGION,
        "--no-confirm-changeset", "--stack-name", stack, "--parameter-overrides", f"Architecture={ARCHITECTURE}",
        *parameters, check=False,
    )
    if check and deployed.returncode:
        events = aws("cloudformation").describe_stack_events(StackName=stack)["StackEvents"]
        reasons = "\n".join(it["ResourceStatusReason"] for it in events if it["ResourceStatus"].endswith("_FAILED"))
        raise Unexpected(f"sam deploy of {stack}\n  expected: exit code 0\n  came: {deployed.returncode}\n{reasons}")
    return deployed.stdout + deployed.stderr


def outputs(stack):
    listed = tool("sam", "list", "stack-outputs", "--stack-name", stack, "--region", REGION, "--output", "json")
    return {it["OutputKey"]: it["OutputValue"] for it in json.loads(listed.stdout)}


def delete(stack):
    deleted = tool("sam", "delete", "--stack-name", stack, "--region", REGION, "--no-prompts", check=False)
    expect(f"sam delete: {deleted.stdout}{deleted.stderr}", deleted.returncode, 0)


def aws(service):
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    return boto3.client(service, region_name=REGION, endpoint_url=ENDPOINT, **keys)


def resource(logical_id, stack=STACK):
    found = aws("cloudformation").describe_stack_resource(StackName=stack, LogicalResourceId=logical_id)
    return found["StackResourceDetail"]["PhysicalResourceId"]


def status(stack):
    return aws("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"]


def clusters():
    return {it["identifier"] for it in aws("dsql").list_clusters()["clusters"]}


def invoke(function, event):
    """The response of a function, and whether it failed."""
    answer = aws("lambda").invoke(FunctionName=function, Payload=json.dumps(event))
    return json.loads(answer["Payload"].read() or "null"), "FunctionError" in answer


def curl(*arguments):
    """Status, headers in lower case, and body."""
    return parsed(run(["curl", "-sS", "-i", *arguments], {}).stdout)


def pasted(line, env=None):
    """Runs a command from the stack's outputs in a shell."""
    expect_in("a line of the outputs", "curl ", line)
    return parsed(run(["sh", "-c", line.replace("curl ", "curl -sS -i ", 1)], env or {}).stdout)


def parsed(answer):
    head, _, body = answer.replace("\r\n", "\n").partition("\n\n")
    first, *headers = head.split("\n")
    named = {name.lower(): value.strip() for name, _, value in (it.partition(":") for it in headers)}
    return int(first.split(" ")[1]), named, json.loads(body) if body.strip() else None


def signed(keys):
    options = ["--aws-sigv4", f"aws:amz:{REGION}:execute-api"]
    options += ["--user", f"{keys['AWS_ACCESS_KEY_ID']}:{keys['AWS_SECRET_ACCESS_KEY']}"]
    token = keys.get("AWS_SESSION_TOKEN")
    return options + ["-H", f"x-amz-security-token: {token}"] * bool(token)


def connected(database):
    return contextlib.closing(
        pg8000.native.Connection(
            SERVER.username, host=SERVER.hostname, port=SERVER.port, password=SERVER.password, database=database,
            ssl_context=False,
        )
    )


def sql(statement, database="postgres"):
    with connected(database) as connection:
        return connection.run(statement)


# Shared by several steps.

ALICE = {"name": "Alice", "age": 30}
JSON = ["-H", "Content-Type: application/json"]


def post(url, options, user, key=None):
    keyed = ["-H", f"Idempotency-Key: {key}"] if key else []
    made, headers, body = curl(*options, *JSON, *keyed, "-d", json.dumps(user), url)
    expect(f"POST: {body}", made, 201)
    return body, headers


def guide(url, options):
    """The guide's five requests."""
    user, headers = post(url, options, ALICE)
    expect("POST", user | {"id": 0}, ALICE | {"id": 0})
    one = f"{url}/{user['id']}"
    expect("where Location leads", urllib.parse.urljoin(url, headers["location"]), one)
    answered, _, users = curl(*options, url)
    expect("the list's status", answered, 200)
    expect_in("the list", user, users)
    expect("GET", curl(*options, one)[::2], (200, user))
    changed = user | {"name": "Alice Updated", "age": 31}
    put = curl(*options, "-X", "PUT", *JSON, "-d", json.dumps(changed), one)
    expect("PUT", put[::2], (200, changed))
    expect("DELETE", curl(*options, "-X", "DELETE", one)[::2], (200, {"message": f"User {user['id']} deleted"}))
    expect("GET of what was deleted", curl(*options, one)[0], 404)


def refused(url, options, expected, requests=("GET", "POST", "GET /1", "PUT /1", "DELETE /1")):
    """Expects these requests to be rejected with this status."""
    for request in requests:
        method, _, path = request.partition(" ")
        came, _, _ = curl(*options, "-X", method, *JSON, "-d", json.dumps(ALICE), url + path)
        expect(request, came, expected)


def keys_of(made):
    keys = {"AWS_ACCESS_KEY_ID": made["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": made["SecretAccessKey"]}
    return keys | ({"AWS_SESSION_TOKEN": made["SessionToken"]} if "SessionToken" in made else {})


def policy(statement):
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow"} | statement]})


def preflight(url, origin):
    """What the API allows pages of an origin to do."""
    asked = [f"Origin: {origin}", "Access-Control-Request-Method: PUT", "Access-Control-Request-Headers: if-match"]
    _, headers, _ = curl("-X", "OPTIONS", *(it for header in asked for it in ("-H", header)), url)
    prefix = "access-control-allow-"
    return {name.removeprefix(prefix): it.lower() for name, it in headers.items() if name.startswith(prefix)}


def layer(name, certificates):
    """A layer, created as in docs/deploy.md."""
    with zipfile.ZipFile(WORK / f"{name}.zip", "w") as archive:
        archive.write(certificates, "ca.pem")
    made = tool(
        "aws", "lambda", "publish-layer-version", "--layer-name", name, "--zip-file", f"fileb://{name}.zip",
        "--query", "LayerVersionArn", "--output", "text",
    )
    return made.stdout.strip()


def is_refused_as(function, user, stack):
    """Expects the gate to reject a function that connects as another database user, for that reason."""
    name, log = resource(function, stack), WORK / "gate.log"
    variables = aws("lambda").get_function_configuration(FunctionName=name)["Environment"]["Variables"]
    update, said = aws("lambda").update_function_configuration, len(log.read_text())
    update(FunctionName=name, Environment={"Variables": variables | {"PGUSER": user}})
    kebab = re.sub(r"\B([A-Z])", r"-\1", function).lower()
    answer, _ = invoke(name, json.loads((ROOT / f"events/{kebab}.json").read_text()))
    update(FunctionName=name, Environment={"Variables": variables})
    expect(f"{function} as {user}", answer["statusCode"], 503)
    expect_in(f"the gate, of {function} as {user}", f"{user} is refused", log.read_text()[said:])


# A function that reports whether it sees its layer.
PROBE = """#!/bin/sh
api=http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation
id=$(curl -s -o /dev/null -D - $api/next | tr -d '\\r' | awk 'tolower($1) ~ /request-id:$/ {print $2}')
curl -s -d "$(test -e /opt/probe && echo true || echo false)" $api/$id/response
"""


class Scenario:
    """The steps, in this order: the methods of this class."""

    def a_deployment_with_every_default_answers(self):
        deploy(STACK)
        self.outputs = outputs(STACK)
        self.url = self.outputs["Url"]
        self.cluster = resource("Cluster")
        iam = aws("iam")
        for name in ("caller", "guest"):
            iam.create_user(UserName=name)
            setattr(self, name, keys_of(iam.create_access_key(UserName=name)["AccessKey"]))
        self.may_call = policy({"Action": "execute-api:Invoke", "Resource": "arn:aws:execute-api:*:*:*"})
        iam.put_user_policy(UserName="caller", PolicyName="p", PolicyDocument=self.may_call)
        answered, _, users = pasted(self.outputs["List"], self.caller)
        expect("the outputs' List", (answered, users), (200, []))
        answered, _, user = pasted(self.outputs["Create"], self.caller)
        expect("the outputs' Create", (answered, user["name"]), (201, "Alice"))
        guide(self.url, signed(self.caller))

    def ministack_needs_the_bridge_of_layers(self):
        functions, archive = aws("lambda"), WORK / "probe.zip"
        with zipfile.ZipFile(archive, "w") as writer:
            writer.writestr("probe", "")
            bootstrap = zipfile.ZipInfo("bootstrap")
            bootstrap.external_attr = 0o755 << 16
            writer.writestr(bootstrap, PROBE)
        made = functions.publish_layer_version(LayerName="probe", Content={"ZipFile": archive.read_bytes()})
        functions.create_function(
            FunctionName="probe", Runtime="provided.al2023", Handler="bootstrap", Layers=[made["LayerVersionArn"]],
            Role=aws("iam").get_role(RoleName=resource("MigrateRole"))["Role"]["Arn"],
            Code={"ZipFile": archive.read_bytes()},
        )
        answer, failed = invoke("probe", {})
        expect("the probe has failed", failed, False)
        expect("a function sees its layer, so MiniStack no longer needs bridge_layers: remove it", answer, False)

    def only_who_may_gets_in(self):
        refused(self.url, [], 403)
        refused(self.url, signed(self.guest), 403)
        refused(self.url, signed(self.caller | {"AWS_SECRET_ACCESS_KEY": "wrong"}), 403)

    def a_session_of_a_role_gets_in(self):
        trust = policy({"Action": "sts:AssumeRole", "Principal": {"AWS": "*"}})
        role = aws("iam").create_role(RoleName="clerk", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
        aws("iam").put_role_policy(RoleName="clerk", PolicyName="p", PolicyDocument=self.may_call)
        assume = aws("sts").assume_role
        self.sessions = [
            keys_of(assume(RoleArn=role, RoleSessionName=name)["Credentials"]) for name in ("one", "two")
        ]
        expect("the outputs' List", pasted(self.outputs["List"], self.sessions[0])[0], 200)
        guide(self.url, signed(self.sessions[0]))

    def a_key_belongs_to_its_caller(self):
        one, two = (signed(it) for it in self.sessions)
        made, _ = post(self.url, one, ALICE, key="k")
        expect("the same role in another session", post(self.url, two, ALICE, key="k")[0], made)
        other, _ = post(self.url, signed(self.caller), ALICE, key="k")
        if other["id"] == made["id"]:
            raise Unexpected("two callers share their keys")

    def a_link_can_be_followed_with_a_signature(self):
        for number in range(3):
            post(self.url, signed(self.caller), ALICE | {"name": f"Bob {number}"})
        answered, _, everybody = curl(*signed(self.caller), self.url)
        expect("the list's status", answered, 200)
        found, url = [], f"{self.url}?limit=2"
        while url:
            answered, headers, page = curl(*signed(self.caller), url)
            expect(f"GET {url}", answered, 200)
            found += page
            link = headers.get("link")
            url = link and urllib.parse.urljoin(self.url, link.partition(">")[0].removeprefix("<"))
        expect("the pages together", found, everybody)

    def a_write_that_conflicts_is_repeated(self):
        user, _ = post(self.url, signed(self.caller), ALICE)
        one, body = f"{self.url}/{user['id']}", json.dumps(ALICE | {"age": 31})
        waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        with connected(self.cluster) as other:
            other.run("BEGIN")
            other.run(f"UPDATE users SET age = 32 WHERE id = {user['id']}")
            put = MEANWHILE.submit(curl, *signed(self.caller), "-X", "PUT", *JSON, "-d", body, one)
            while not put.done() and not sql(waits):
                time.sleep(0.02)
            other.run("COMMIT")
        expect("PUT", put.result()[::2], (200, user | {"age": 31}))
        log = (WORK.parent / "postgres.log").read_text()
        expect_in("PostgreSQL's log", "could not serialize access", log)

    def a_function_connects_as_its_own_user_alone(self):
        for user in sorted({*USERS.values(), "admin"} - {USERS["ListUsers"]}):
            is_refused_as("ListUsers", user, STACK)
        for function in set(USERS) - {"ListUsers"}:
            is_refused_as(function, "users_deleter" if function != "DeleteUser" else "users_reader", STACK)
        guide(self.url, signed(self.caller))

    def migrate_runs_by_hand(self):
        command, *arguments = shlex.split(self.outputs["MigrateFunction"])
        expect("the outputs' MigrateFunction", command, "sam")
        expect_in("what migrate tells", '{"applied":[]}', tool("sam", *arguments).stdout.replace(" ", ""))

    def the_schedule_deletes_old_keys(self):
        migrate = aws("lambda").get_function_configuration(FunctionName=resource("Migrate"))["FunctionArn"]
        events = aws("events")
        [name] = events.list_rule_names_by_target(TargetArn=migrate)["RuleNames"]
        rule, [target] = events.describe_rule(Name=name), events.list_targets_by_rule(Rule=name)["Targets"]
        if not re.fullmatch(r"cron\(\d+ \* \* \* \? \*\)", rule["ScheduleExpression"]):
            raise Unexpected(f"not once an hour: {rule['ScheduleExpression']}")
        for number in range(9):
            post(self.url, signed(self.caller), ALICE, key=f"old-{number}")
        sql("UPDATE idempotency_keys SET created_at = now() - interval '3 days'", self.cluster)
        post(self.url, signed(self.caller), ALICE, key="new")
        [[before]] = sql("SELECT count(*) FROM idempotency_keys", self.cluster)
        deleted = 0
        for hour in range(24):
            event = json.loads(target["Input"]) if "Input" in target else {
                "version": "0", "id": "cdc73f9d-aea9-11e3-9d5a-835b769c0d9c", "detail-type": "Scheduled Event",
                "source": "aws.events", "account": "000000000000", "time": f"2026-01-01T{hour:02}:30:00Z",
                "region": REGION, "resources": [rule["Arn"]], "detail": {},
            }
            answer, failed = invoke(target["Arn"], event)
            expect(f"the schedule's event at {hour}: {answer}", failed, False)
            deleted += answer["deleted"]
        [[left]] = sql("SELECT count(*) FROM idempotency_keys", self.cluster)
        expect("the keys that are left, and were deleted", (left, deleted), (1, before - 1))

    def an_update_that_fails_is_rolled_back(self):
        text, broken = TEMPLATE.read_text(), WORK / "broken.yaml"
        # Paths in the built template are relative to the template.
        text = re.sub(r"(CodeUri|ContentUri): (.*)", lambda it: f"{it[1]}: {TEMPLATE.parent / it[2]}", text)
        broken.write_text(text.replace("Access: delete", "Access: destroy"))
        began = time.monotonic()
        told = deploy(STACK, "MemorySize=512", template=broken, check=False)
        expect(f"the stack: {told}", status(STACK), "UPDATE_ROLLBACK_COMPLETE")
        expect_in("the reason that Migrate gives", "destroy", told)
        if time.monotonic() - began > 60:
            raise Unexpected("Migrate retried an error that can't go away")
        memory = aws("lambda").get_function_configuration(FunctionName=resource("ListUsers"))["MemorySize"]
        expect("the old functions", memory, 256)
        guide(self.url, signed(self.caller))

    def tokens_of_cognito_get_in_by_audience_and_scope(self):
        cognito = aws("cognito-idp")
        pool = cognito.create_user_pool(PoolName="users")["UserPool"]["Id"]
        cognito.create_user_pool_domain(Domain="users", UserPoolId=pool)
        scopes = [{"ScopeName": it, "ScopeDescription": it} for it in ("read", "write")]
        cognito.create_resource_server(UserPoolId=pool, Identifier="users", Name="users", Scopes=scopes)

        def client(*granted):
            scope = [f"users/{it}" for it in granted]
            made = cognito.create_user_pool_client(
                UserPoolId=pool, ClientName="c", GenerateSecret=True, AllowedOAuthFlows=["client_credentials"],
                AllowedOAuthFlowsUserPoolClient=True, AllowedOAuthScopes=scope,
            )["UserPoolClient"]
            form = {"grant_type": "client_credentials", "scope": " ".join(scope)}
            form |= {"client_id": made["ClientId"], "client_secret": made["ClientSecret"]}
            told = curl("-d", urllib.parse.urlencode(form), f"{ENDPOINT}/oauth2/token")[2]
            return made["ClientId"], told["access_token"]

        reader, may_read = client("read")
        writer, may_both = client("read", "write")
        only_writer, may_write = client("write")
        _, stranger = client("read", "write")
        issuer = f"https://cognito-idp.{REGION}.amazonaws.com/{pool}"
        deploy(
            STACK, "Authorization=JWT", f"JwtIssuer={issuer}", f"JwtAudience={reader},{writer},{only_writer}",
            "JwtReadScopes=users/read", "JwtWriteScopes=users/write",
            "CorsOrigins=https://one.example.com,https://two.example.com",
        )

        def bearer(token):
            return ["-H", f"Authorization: Bearer {token}"]

        refused(self.url, [], 401)
        refused(self.url, signed(self.caller), 401)
        refused(self.url, bearer(f"{may_both[:-9]}AAAAAAAAA"), 401)
        refused(self.url, bearer(stranger), 401)
        refused(self.url, bearer(may_read), 403, ["POST", "PUT /1", "DELETE /1"])
        expect("GET with the scope to read", curl(*bearer(may_read), self.url)[0], 200)
        refused(self.url, bearer(may_write), 403, ["GET", "GET /1"])
        guide(self.url, bearer(may_both))
        made, _ = post(self.url, bearer(may_both), ALICE, key="k")
        if post(self.url, bearer(may_write), ALICE, key="k")[0]["id"] == made["id"]:
            raise Unexpected("two clients share their keys")
        expect("the outputs' List", pasted(outputs(STACK)["List"], {"TOKEN": may_both})[0], 200)

    def pages_of_the_chosen_origins_may_call(self):
        allowed = preflight(f"{self.url}/1", "https://two.example.com")
        expect("the allowed origin", allowed.get("origin"), "https://two.example.com")
        expect_in("the allowed methods", "put", allowed["methods"])
        expect_in("the allowed headers", "if-match", allowed["headers"])
        expect("another origin", preflight(f"{self.url}/1", "https://three.example.com").get("origin"), None)

    def everybody_gets_in(self):
        deploy(STACK, "Authorization=NONE", 'CorsOrigins=""')
        guide(self.url, [])
        expect("the outputs' List", pasted(outputs(STACK)["List"])[0], 200)
        allowed = preflight(f"{self.url}/1", "https://two.example.com")
        expect("an origin once there are none", allowed.get("origin"), None)
        expect("an unknown route", curl(self.url.replace("/users", "/admins"))[0], 404)
        expect("an unknown method", curl("-X", "PATCH", f"{self.url}/1")[0], 404)

    def what_cannot_work_is_refused(self):
        broken = {
            "DatabaseSecret needs DatabaseUrl": ["DatabaseSecret=s"],
            "DatabaseUrl needs DatabaseResourceId": [f"DatabaseUrl={RDS}"],
            "JWT needs JwtIssuer": ["Authorization=JWT", "JwtAudience=a"],
            "JWT needs JwtAudience": ["Authorization=JWT", "JwtIssuer=https://example.com"],
            "SubnetIds needs SecurityGroupIds": ["SubnetIds=subnet-1"],
            "AlarmTopic or AlarmEmail": ["AlarmEmail=a@example.com", f"AlarmTopic=arn:aws:sns:{REGION}:000000000000:t"],
            "without user and password": ["DatabaseUrl=postgres://me:secret@host/db"],
        }
        template = aws("cloudformation").get_template(StackName=STACK)["TemplateBody"]
        template = template if isinstance(template, str) else json.dumps(template)
        for words, values in broken.items():
            split = (it.split("=", 1) for it in values)
            parameters = [{"ParameterKey": name, "ParameterValue": value} for name, value in split]
            try:
                aws("cloudformation").create_change_set(
                    StackName="refused", ChangeSetName="c", ChangeSetType="CREATE", TemplateBody=template,
                    Parameters=parameters, Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
                )
            except botocore.exceptions.ClientError as error:
                expect_in(f"the refusal of {values}", words, str(error))
            else:
                raise Unexpected(f"{values} is not refused")

    def both_stacks_are_deleted_meanwhile(self):
        self.deleted = MEANWHILE.submit(delete, STACK)
        deploy(DISPOSABLE)
        self.disposable = resource("Cluster", DISPOSABLE)
        deploy(DISPOSABLE, "KeepData=false")
        self.disposed = MEANWHILE.submit(delete, DISPOSABLE)

    def a_postgresql_with_iam_tokens_serves(self):
        for statement in (
            "CREATE ROLE mydb_rds_iam",
            "CREATE ROLE boss LOGIN CREATEROLE PASSWORD 'password'",
            "GRANT mydb_rds_iam TO boss WITH ADMIN OPTION",
            "CREATE DATABASE mydb OWNER boss",
            # Roles with these names exist already, for the clusters: all databases here are on one server.
            *(f"GRANT {user} TO boss WITH ADMIN OPTION" for user in sorted(set(USERS.values()))),
        ):
            sql(statement)
        parameters = [f"DatabaseUrl={RDS}", f"DatabaseResourceId={os.environ['RESOURCE_ID']}", "DatabaseOwner=boss"]
        deploy(OWN, *parameters, f"CaBundleLayer={layer('ca', os.environ['RDS_AUTHORITY'])}")
        self.url = outputs(OWN)["Url"]
        guide(self.url, signed(self.caller))
        for function in USERS:
            is_refused_as(function, "users_deleter" if function != "DeleteUser" else "users_reader", OWN)

    def a_password_of_ones_own_postgresql_is_rotated(self):
        secrets, secret = aws("secretsmanager"), {"username": "boss", "password": "password"}
        secrets.create_secret(Name="users", SecretString=json.dumps(secret))
        url = f"postgres://localhost:{SERVER.port}/mydb?sslmode=verify-full"
        bundle = layer("server", os.environ["SERVER_CA"])
        deploy(OWN, f"DatabaseUrl={url}", 'DatabaseResourceId=""', "DatabaseSecret=users", f"CaBundleLayer={bundle}")
        guide(self.url, signed(self.caller))
        secret["password"] = "p@ss/w0rd #2"
        version = secrets.put_secret_value(SecretId="users", SecretString=json.dumps(secret))["VersionId"]
        sql(f"ALTER ROLE boss PASSWORD '{secret['password']}'")
        sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'boss'")
        expect("with the old password", curl(*signed(self.caller), self.url)[0], 503)
        deploy(OWN, f"DatabaseSecretVersion={version}")
        guide(self.url, signed(self.caller))

    def a_cluster_goes_with_its_stack_if_one_says_so(self):
        self.disposed.result()
        expect("the clusters", self.disposable in clusters(), False)

    def a_cluster_outlives_its_stack_otherwise(self):
        self.deleted.result()
        expect("the clusters", clusters(), {self.cluster})
        protected = aws("dsql").get_cluster(identifier=self.cluster)["deletionProtectionEnabled"]
        expect("the cluster's protection", protected, True)


def main():
    scenario, failed = Scenario(), False
    steps = [(name, step) for name, step in vars(Scenario).items() if callable(step)]
    for name, step in steps:
        began, title = time.monotonic(), name.replace("_", " ")
        try:
            step(scenario)
        except Exception as error:
            failed = True
            told = error if isinstance(error, Unexpected) else "".join(traceback.format_exception(error))
            print(f"FAILED {title}: {told}", flush=True)
            if "url" not in vars(scenario):
                break  # without a stack there is nothing to go on with
        else:
            print(f"  {title} ({time.monotonic() - began:.1f} s)", flush=True)
    raise SystemExit(failed)


main()
