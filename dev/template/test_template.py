"""What template.yaml promises, tested on every stack that it can produce."""

import hashlib
import json
import re
import unittest
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cloudformation import LAYER, ROOT, SOURCE, STACKS, Stack, expanded, invalid, parameters, plain

# The guide's routes and the database user of each.
ENDPOINTS = {
    "ListUsers": ("GET", "/api/users", "users_reader"),
    "CreateUser": ("POST", "/api/users", "users_creator"),
    "GetUser": ("GET", "/api/users/{id}", "users_reader"),
    "UpdateUser": ("PUT", "/api/users/{id}", "users_updater"),
    "DeleteUser": ("DELETE", "/api/users/{id}", "users_deleter"),
}
ACCESS = {"users_reader": "read", "users_creator": "create", "users_updater": "update", "users_deleter": "delete"}
FUNCTIONS = [*ENDPOINTS, "Migrate"]

CLUSTER_URL = "postgres://${Cluster.Endpoint}:5432/postgres?sslnegotiation=direct"
# SHA-256 of the public keys; source: https://www.amazontrust.com/repository/
AMAZON_ROOTS = [
    "fbe3018031f9586bcbf41727e417b7d1c45c2f47f93be372a17b96b50757d5a2",
    "7f4296fc5b6a4e3b35d3c369623e364ab1af381d8fa7121533c9d6c633ea2461",
    "36abc32656acfc645c61b71613c4bf21c787f5cabbee48348d58597803d7abc9",
    "f7ecded5c66047d28ed6466b543c40e0743abe81d109254dcf845d4c2c7853c5",
    "2b071c59a0a0ae76b0eadb2bad23bad4580b69c3601b630c2eaf0613afa83f92",
]
OTHER_URL = "postgres://db.example.com:5432/mydb"
SECRET = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:users-AbCdEf:SecretString"


def database_user(stack: Stack, function: str) -> str:
    """The user as which the function connects."""
    match stack.decided["database"], function:
        case "password", _:
            return "{{resolve:secretsmanager:%s:username::}}" % SECRET
        case "password of a version", _:
            return "{{resolve:secretsmanager:%s:username::01234567-89ab-cdef}}" % SECRET
        case "rds" | "proxy", "Migrate":
            return "boss"
        case _, "Migrate":
            return "admin"
    return ENDPOINTS[function][2]


def uses_dsql(stack: Stack) -> bool:
    return stack.decided["database"] in ("kept", "disposable")


def uses_password(stack: Stack) -> bool:
    return stack.decided["database"].startswith("password")


def connect(stack: Stack, function: str) -> list[tuple]:
    """The policy statement that lets the function connect, if it needs one."""
    if uses_password(stack):
        return []
    if uses_dsql(stack):
        action = "dsql:DbConnectAdmin" if function == "Migrate" else "dsql:DbConnect"
        return [("Allow", None, action, "${Cluster.ResourceArn}")]
    database = "prx-ABC" if stack.decided["database"] == "proxy" else "db-ABC"
    user = "arn:${AWS::Partition}:rds-db:${AWS::Region}:${AWS::AccountId}:dbuser:%s/" % database
    return [("Allow", None, "rds-db:connect", user + database_user(stack, function))]


def statements(policy: dict) -> list[tuple]:
    """The statements of a policy: effect, principal, actions, resource."""
    members = ("Effect", "Principal", "Action", "Resource")
    for statement in policy["Statement"]:
        assert set(statement) <= set(members), statement
    return [tuple(map(statement.get, members)) for statement in policy["Statement"]]


def operations(stack: Stack) -> dict[tuple[str, str], dict]:
    """The API's operations by method and path."""
    paths = plain(stack.of_type("AWS::ApiGatewayV2::Api")["Api"]["Body"]["paths"])
    return {(method.upper(), path): it for path, methods in paths.items() for method, it in methods.items()}


def everywhere(test):
    """Runs the test on every stack."""

    def on_every_stack(self):
        for stack in STACKS:
            try:
                test(self, stack)
            except AssertionError as failure:
                raise AssertionError(f"{stack.decided}: {failure}") from failure

    return on_every_stack


class Template(unittest.TestCase):
    maxDiff = None

    @everywhere
    def test_the_routes_are_the_guides_and_each_goes_to_its_own_function(self, stack):
        arn = "arn:${AWS::Partition}:apigateway:${AWS::Region}:lambda:path/2015-03-31/functions/${%s.Arn}/invocations"
        expected = {(method, path): arn % function for function, (method, path, _) in ENDPOINTS.items()}
        routes = operations(stack)
        self.assertEqual({it: routes[it]["x-amazon-apigateway-integration"]["uri"] for it in routes}, expected)

    @everywhere
    def test_every_route_has_the_authorization_that_was_chosen(self, stack):
        read, write = ["users/read", "users/all"], ["users/write"]
        expected = {
            "IAM": ([{"AWS_IAM": []}], [{"AWS_IAM": []}]),
            "JWT": ([{"JWT": []}], [{"JWT": []}]),
            "JWT, read scopes": ([{"JWT": read}], [{"JWT": []}]),
            "JWT, write scopes": ([{"JWT": []}], [{"JWT": write}]),
            "JWT, scopes": ([{"JWT": read}], [{"JWT": write}]),
            "NONE": ([], []),
        }
        for_get, for_others = expected[stack.decided["authorization"]]
        for (method, path), it in operations(stack).items():
            self.assertEqual(it["security"], for_get if method == "GET" else for_others, (method, path))

    @everywhere
    def test_the_authorizers_check_signatures_and_the_issuers_tokens(self, stack):
        iam = {"type": "apiKey", "name": "Authorization", "in": "header", "x-amazon-apigateway-authtype": "awsSigv4"}
        jwt = {
            "type": "oauth2",
            "x-amazon-apigateway-authorizer": {
                "type": "jwt",
                "identitySource": "$request.header.Authorization",
                "jwtConfiguration": {"issuer": "https://issuer.example.com", "audience": ["users", "admin"]},
            },
        }
        api = stack.of_type("AWS::ApiGatewayV2::Api")["Api"]
        expected = {"IAM": {"AWS_IAM": iam}, "JWT": {"JWT": jwt}, "NONE": {}}
        authorization = stack.decided["authorization"].split(",")[0]
        self.assertEqual(api["Body"]["components"], {"securitySchemes": expected[authorization]})
        self.assertTrue(api["FailOnWarnings"])

    @everywhere
    def test_pages_of_other_origins_may_call_only_where_it_was_asked_for(self, stack):
        cors = stack.of_type("AWS::ApiGatewayV2::Api")["Api"]["Body"].get("x-amazon-apigateway-cors")
        if stack.decided["origins"] == "none":
            self.assertIsNone(cors)
            return
        self.assertEqual(cors["allowOrigins"], ["https://one.example.com", "https://two.example.com"])
        self.assertEqual(set(cors["allowMethods"]), {method for method, _, _ in ENDPOINTS.values()})
        self.assertLessEqual({"authorization", "content-type", "idempotency-key"}, set(cors["allowHeaders"]))
        self.assertEqual(set(cors["exposeHeaders"]), {"etag", "link", "location", "retry-after"})

    @everywhere
    def test_only_its_own_route_may_call_an_endpoint_and_only_its_schedule_migrate(self, stack):
        arn = "arn:${AWS::Partition}:execute-api:${AWS::Region}:${AWS::AccountId}:${Api}/*/%s%s"
        expected = {
            function: ("apigateway.amazonaws.com", arn % (method, path.replace("{id}", "*")))
            for function, (method, path, _) in ENDPOINTS.items()
        } | {"Migrate": ("events.amazonaws.com", "${MigrateHourly.Arn}")}
        permissions = plain(list(stack.of_type("AWS::Lambda::Permission").values()))
        self.assertEqual(len(permissions), len(expected))
        self.assertEqual(
            {it["FunctionName"]: (it["Principal"], it["SourceArn"]) for it in permissions},
            {"${%s}" % function: it for function, it in expected.items()},
        )

    @everywhere
    def test_the_stage_is_throttled_and_logs_every_request(self, stack):
        [stage] = stack.of_type("AWS::ApiGatewayV2::Stage").values()
        limits = {"ThrottlingRateLimit": 100, "ThrottlingBurstLimit": 200}
        self.assertEqual(stage["DefaultRouteSettings"], limits)
        self.assertEqual(plain(stage["AccessLogSettings"]["DestinationArn"]), "${AccessLog.Arn}")
        self.assertNotIn("\n", stage["AccessLogSettings"]["Format"])
        record = json.loads(stage["AccessLogSettings"]["Format"])
        self.assertEqual(record["requestId"], "$context.integration.requestId")

    @everywhere
    def test_a_function_may_write_its_own_log_and_connect_as_its_own_user_and_nothing_else(self, stack):
        functions, roles = plain(stack.of_type("AWS::Lambda::Function")), plain(stack.of_type("AWS::IAM::Role"))
        self.assertEqual(set(roles), {f"{function}Role" for function in FUNCTIONS})
        managed = ["arn:${AWS::Partition}:iam::aws:policy/AWSXRayDaemonWriteAccess"]
        if stack.decided["network"] == "own":
            managed.append("arn:${AWS::Partition}:iam::aws:policy/service-role/AWSLambdaENIManagementAccess")
        for function in FUNCTIONS:
            self.assertEqual(functions[function]["Role"], "${%sRole.Arn}" % function)
            role = roles[f"{function}Role"]
            self.assertEqual(
                statements(role.pop("AssumeRolePolicyDocument")),
                [("Allow", {"Service": "lambda.amazonaws.com"}, "sts:AssumeRole", None)],
            )
            [policy] = role.pop("Policies")
            write = ("Allow", None, ["logs:CreateLogStream", "logs:PutLogEvents"], "${%sLog.Arn}" % function)
            self.assertEqual(statements(policy["PolicyDocument"]), [write, *connect(stack, function)])
            self.assertEqual(role, {"ManagedPolicyArns": managed})
        kinds = {it["Type"] for it in stack.template["Resources"].values()}
        self.assertEqual({it for it in kinds if "::IAM::" in it}, {"AWS::IAM::Role"}, "no policy beside the roles")

    @everywhere
    def test_a_functions_environment_is_its_database_and_no_secret(self, stack):
        dsql, password = uses_dsql(stack), uses_password(stack)
        common = {
            "DATABASE_URL": CLUSTER_URL if dsql else OTHER_URL,
            "DATABASE_AUTH": "dsql" if dsql else "password" if password else "rds",
            # Statements are prepared only if there is no pooler: with a password there may be one.
            "DATABASE_POOLER": "transaction" if password or stack.decided["database"] == "proxy" else "none",
            "OPENSSL_CONF": "/opt/openssl.cnf",
        }
        if stack.decided["authorities"] == "own":
            common["PGSSLROOTCERT"] = "/opt/ca.pem"
        elif not password:
            common["PGSSLROOTCERT"] = "/opt/amazon-roots.pem"
        for function, it in stack.of_type("AWS::Lambda::Function").items():
            expected = common | {"PGUSER": database_user(stack, function)}
            if "PGSSLROOTCERT" in common and function != "Migrate":  # which responds to CloudFormation over HTTPS
                expected["SSL_CERT_FILE"] = "/dev/null"
            if password:  # CloudFormation's reference to a secret, not the secret
                expected["PGPASSWORD"] = expected["PGUSER"].replace(":username:", ":password:")
            self.assertEqual(plain(it["Environment"]["Variables"]), expected)

    @everywhere
    def test_a_function_is_where_and_as_much_as_was_chosen(self, stack):
        vpc = {"SubnetIds": ["subnet-01234567", "subnet-89abcdef"], "SecurityGroupIds": ["sg-01234567"]}
        [tls] = stack.of_type("AWS::Lambda::LayerVersion")
        layers = ["${%s}" % tls]
        if stack.decided["authorities"] == "own":
            layers.append("arn:aws:lambda:eu-central-1:123456789012:layer:ca:1")
        functions = stack.of_type("AWS::Lambda::Function")
        self.assertEqual(set(functions), set(FUNCTIONS))
        for function, it in functions.items():
            self.assertEqual(it.get("VpcConfig"), vpc if stack.decided["network"] == "own" else None)
            self.assertEqual(plain(it["Layers"]), layers)
            reserved = "5" if stack.decided["concurrency"] == "reserved" else None
            self.assertEqual(it.get("ReservedConcurrentExecutions"), reserved)
            self.assertEqual(it["Timeout"], 120 if function == "Migrate" else 10)
            self.assertEqual((it["MemorySize"], it["Architectures"]), (256, ["arm64"]))
            self.assertEqual(it["TracingConfig"], {"Mode": "Active"})

    def test_the_layer_has_the_files_that_the_functions_read(self):
        read = set(re.findall(r"/opt/([\w.-]+)", (ROOT / "template.yaml").read_text())) - {"ca.pem"}
        self.assertEqual({path.name for path in LAYER.iterdir()}, read)

    def test_the_layers_roots_are_those_that_amazon_publishes(self):
        pem = (LAYER / "amazon-roots.pem").read_bytes()
        roots = x509.load_pem_x509_certificates(pem)
        keys = [it.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for it in roots]
        self.assertEqual([hashlib.sha256(key).hexdigest() for key in keys], AMAZON_ROOTS)
        for root in roots:
            root.verify_directly_issued_by(root)
            self.assertGreater(root.not_valid_after_utc, datetime.now(UTC) + timedelta(days=365), root.subject)

    @everywhere
    def test_every_function_has_a_log_of_its_own_in_json_and_every_log_an_end(self, stack):
        logs = stack.of_type("AWS::Logs::LogGroup")
        self.assertEqual(set(logs), {"AccessLog"} | {f"{function}Log" for function in FUNCTIONS})
        self.assertEqual({it["RetentionInDays"] for it in logs.values()}, {30})
        for function, it in stack.of_type("AWS::Lambda::Function").items():
            self.assertEqual(plain(it["LoggingConfig"]), {"LogFormat": "JSON", "LogGroup": "${%sLog}" % function})

    @everywhere
    def test_the_schema_is_that_of_the_last_migration_in_the_functions_database(self, stack):
        last = max(path.stem for path in (ROOT / "shared/migrations").glob("*.sql"))
        schema = plain(stack.of_type("AWS::CloudFormation::CustomResource")["Schema"])
        functions = plain(stack.of_type("AWS::Lambda::Function"))
        self.assertEqual(schema["ServiceToken"], "${Migrate.Arn}")
        self.assertEqual(schema["SchemaVersion"], last)
        self.assertGreater(schema["ServiceTimeout"], functions["Migrate"]["Timeout"])
        urls = {it["Environment"]["Variables"]["DATABASE_URL"] for it in functions.values()}
        self.assertEqual(urls, {schema["DatabaseUrl"]})
        for endpoint in ENDPOINTS:
            self.assertEqual(stack.template["Resources"][endpoint]["DependsOn"], "Schema")

    @everywhere
    def test_the_schema_gives_each_role_of_the_database_to_exactly_its_functions(self, stack):
        users = {}
        for function, (_, _, user) in ENDPOINTS.items():
            users.setdefault(user, []).append("${%sRole.Arn}" % function)
        roles = [
            {"Name": user, "Access": ACCESS[user], "IamRoles": arns} for user, arns in users.items()
        ]
        schema = plain(stack.of_type("AWS::CloudFormation::CustomResource")["Schema"])
        self.assertEqual(schema.get("Roles"), None if uses_password(stack) else roles)

    @everywhere
    def test_old_keys_are_deleted_hourly_and_the_event_has_its_time(self, stack):
        [rule] = stack.of_type("AWS::Events::Rule").values()
        self.assertEqual(rule["ScheduleExpression"], "cron(30 * * * ? *)")
        [target] = plain(rule["Targets"])
        self.assertEqual(target["Arn"], "${Migrate.Arn}")
        self.assertNotIn("Input", target)

    @everywhere
    def test_the_cluster_is_protected_and_outlives_the_stack_unless_it_is_disposable(self, stack):
        cluster = stack.template["Resources"].get("Cluster")
        if not uses_dsql(stack):
            self.assertIsNone(cluster)
            return
        kept = stack.decided["database"] == "kept"
        self.assertEqual(cluster["Properties"], {"DeletionProtectionEnabled": kept})
        self.assertEqual(cluster["DeletionPolicy"], "Retain" if kept else "Delete")
        self.assertEqual(cluster["UpdateReplacePolicy"], "Retain" if kept else "Delete")

    def test_the_transform_knows_the_clusters_policies_also_where_there_is_no_cluster(self):
        # With a Ref instead of an Fn::If it would not, and would reject the template.
        for database in ({}, {"DatabaseUrl": OTHER_URL}):
            for keep, policy in (("true", "Retain"), ("false", "Delete")):
                cluster = expanded(database | {"KeepData": keep})["Resources"]["Cluster"]
                self.assertEqual([cluster["DeletionPolicy"], cluster["UpdateReplacePolicy"]], [policy, policy])

    @everywhere
    def test_every_alarm_reaches_whom_it_shall(self, stack):
        receivers = {
            "unheard": None,
            "topic": ["arn:aws:sns:eu-central-1:123456789012:alarms"],
            "e-mail": ["${Notification}"],
        }
        alarms, topics = stack.of_type("AWS::CloudWatch::Alarm"), stack.of_type("AWS::SNS::Topic")
        self.assertEqual(len(alarms), 4)
        for it in plain(list(alarms.values())):
            self.assertEqual(it.get("AlarmActions"), receivers[stack.decided["alarms"]])
            self.assertEqual(it.get("OKActions"), receivers[stack.decided["alarms"]])
            self.assertEqual(it["TreatMissingData"], "notBreaching")
        subscription = {"Subscription": [{"Protocol": "email", "Endpoint": "ops@example.com"}]}
        expected = {"Notification": subscription} if stack.decided["alarms"] == "e-mail" else {}
        self.assertEqual(topics, expected)

    @everywhere
    def test_the_alarms_watch_the_api_and_all_functions(self, stack):
        stage = [{"Name": "ApiId", "Value": "${Api}"}, {"Name": "Stage", "Value": "$default"}]
        functions = [[{"Name": "FunctionName", "Value": "${%s}" % function}] for function in FUNCTIONS]
        expected = {
            "ServerErrorAlarm": ("AWS/ApiGateway", ["5xx", "Count"], [stage]),
            "ThrottleAlarm": ("AWS/Lambda", ["Throttles"], functions),
            "FunctionErrorAlarm": ("AWS/Lambda", ["Errors"], functions),
        }
        alarms = plain(stack.of_type("AWS::CloudWatch::Alarm"))
        latency = alarms["LatencyAlarm"]
        self.assertEqual((latency["Namespace"], latency["MetricName"]), ("AWS/ApiGateway", "Latency"))
        self.assertEqual((latency["ExtendedStatistic"], latency["Dimensions"]), ("p99", stage))
        for alarm, (namespace, names, dimensions) in expected.items():
            expression, *metrics = alarms[alarm]["Metrics"]
            self.assertIn("Expression", expression)
            self.assertEqual({it["ReturnData"] for it in metrics}, {False})
            metrics = [it["MetricStat"]["Metric"] for it in metrics]
            watched = [(it["Namespace"], it["MetricName"], it["Dimensions"]) for it in metrics]
            self.assertEqual(watched, [(namespace, name, it) for name in names for it in dimensions])

    @everywhere
    def test_the_dashboard_shows_the_api_every_function_and_the_cluster_if_there_is_one(self, stack):
        [dashboard] = stack.of_type("AWS::CloudWatch::Dashboard").values()
        body = json.loads(plain(dashboard["DashboardBody"]))
        shown = json.dumps(body)
        for function in ENDPOINTS:
            self.assertEqual(shown.count("${%s}" % function), 3, "requests, errors and throttles")
            self.assertEqual(shown.count("SOURCE '${%sLog}'" % function), 1, "cold starts")
        namespaces = ["AWS/ApiGateway", "AWS/Lambda"] + ["AWS/AuroraDSQL"] * uses_dsql(stack)
        for namespace in namespaces:
            self.assertIn(namespace, shown)
        self.assertEqual(len(body["widgets"]), 6 if uses_dsql(stack) else 5)


class Parameters(unittest.TestCase):
    def test_values_and_combinations_that_cannot_work_are_refused(self):
        url, db, secret = {"DatabaseUrl": OTHER_URL}, {"DatabaseResourceId": "db-ABC"}, {"DatabaseSecret": "users"}
        jwt = {"Authorization": "JWT"}
        issuer, audience = {"JwtIssuer": "https://issuer.example.com"}, {"JwtAudience": "users"}
        subnets, groups = {"SubnetIds": "subnet-1"}, {"SecurityGroupIds": "sg-1"}
        topic, email = {"AlarmTopic": "arn:aws:sns:eu-central-1:123456789012:alarms"}, {"AlarmEmail": "a@example.com"}
        layer = {"CaBundleLayer": "arn:aws:lambda:eu-central-1:123456789012:layer:ca:1"}
        works = [{}, url | db, url | secret | layer, jwt | issuer | audience, subnets | groups, topic, email]
        works += [{"DatabaseUrl": "postgresql://a.example.com,b.example.com/mydb?connect_timeout=3"} | secret]
        refused = [
            ("DatabaseUrl needs DatabaseResourceId (IAM authentication) or DatabaseSecret", url),
            ("DatabaseUrl takes DatabaseResourceId or DatabaseSecret, not both", url | db | secret),
            ("DatabaseSecret needs DatabaseUrl", secret),
            ("DatabaseResourceId needs DatabaseUrl", db),
            ("CaBundleLayer needs DatabaseUrl; Aurora DSQL has a certificate of a public authority", layer),
            ("DatabaseSecretVersion needs DatabaseSecret", {"DatabaseSecretVersion": "1"}),
            ("JWT needs JwtIssuer", jwt | audience),
            ("JWT needs JwtAudience", jwt | issuer),
            ("SubnetIds needs SecurityGroupIds", subnets),
            ("SecurityGroupIds needs SubnetIds", groups),
            ("AlarmTopic or AlarmEmail, not both", topic | email),
        ]
        for values in works:
            self.assertEqual(invalid(parameters(values)), [], values)
        for description, values in refused:
            self.assertEqual(invalid(parameters(values)), [description], values)
        rules = [it["AssertDescription"] for rule in SOURCE["Rules"].values() for it in rule["Assertions"]]
        self.assertEqual({description for description, _ in refused}, set(rules))

    def test_every_condition_is_tested_both_ways(self):
        for name in SOURCE["Conditions"]:
            self.assertEqual({stack.conditions[name] for stack in STACKS}, {True, False}, name)

    def test_no_password_gets_into_the_url(self):
        for url in ("postgres://me:secret@host/db", "postgres://host/db?password=x", "postgres://host/db?a=b&user=me"):
            self.assertIn("DatabaseUrl", invalid(parameters({"DatabaseUrl": url})))
