"""Runs MiniStack, a local AWS, with bridges for what template.yaml needs and MiniStack lacks.

Each bridge says why it is there. If MiniStack no longer needs one, it doesn't start: remove that bridge.
The environment is MiniStack's own plus GATE (the port where tokens are checked), AUTHORITY (the certificate of that
port), PGPROXY and DOOR (the port of MiniStack's DSQL and the port behind it) and SESSIONS (a file for the gate).
"""

import asyncio
import io
import json
import os
import sys
import threading
import zipfile
from pathlib import Path

from ministack import app
from ministack.core import pgproxy
from ministack.services import apigateway, dsql, lambda_svc
from ministack.services.cloudformation import engine, provisioners

HANDLERS = provisioners._RESOURCE_HANDLERS


def bridge_body() -> bool:
    """`Body` of an HTTP API: API Gateway imports OpenAPI; MiniStack ignores it and creates an API without routes."""
    api = HANDLERS["AWS::ApiGatewayV2::Api"]
    create, update = api["create"], api["update"]

    def without_body(props: dict) -> dict:
        body = props["Body"]
        cors = body.get("x-amazon-apigateway-cors")
        return props | {"Name": body["info"]["title"]} | ({"CorsConfiguration": cors} if cors else {})

    def created(logical_id, props, stack):
        made = create(logical_id, without_body(props), stack)
        import_body(made[0], props["Body"])
        return made

    def updated(physical_id, old, new, stack, *rest, **named):
        made = update(physical_id, without_body(old), without_body(new), stack, *rest, **named)
        import_body(made[0], new["Body"])
        return made

    path = {"get": {"x-amazon-apigateway-integration": {"type": "aws_proxy", "uri": "arn:x"}}}
    api_id, _ = create("Probe", {"Body": {"openapi": "3.0.1", "info": {"title": "x"}, "paths": {"/": path}}}, "probe")
    needed = not apigateway._routes[api_id]
    provisioners._apigw_v2_api_delete(api_id, {})
    api |= {"create": created, "update": updated}
    return needed


def import_body(api_id: str, body: dict) -> None:
    for store in (apigateway._routes, apigateway._integrations, apigateway._authorizers):
        store[api_id] = {}
    schemes = {}
    for name, scheme in body.get("components", {}).get("securitySchemes", {}).items():
        if scheme.get("x-amazon-apigateway-authtype") == "awsSigv4":
            schemes[name] = {"AuthorizationType": "AWS_IAM"}
            continue
        it = scheme["x-amazon-apigateway-authorizer"]
        jwt = {"Issuer": it["jwtConfiguration"]["issuer"], "Audience": it["jwtConfiguration"]["audience"]}
        authorizer = {"ApiId": api_id, "Name": name, "AuthorizerType": it["type"].upper(), "JwtConfiguration": jwt}
        authorizer["IdentitySource"] = [it["identitySource"]]
        schemes[name] = {"AuthorizationType": "JWT"}
        schemes[name]["AuthorizerId"], _ = provisioners._apigw_v2_authorizer_create(name, authorizer, "")
    for path, operations in body["paths"].items():
        for method, operation in operations.items():
            it = operation["x-amazon-apigateway-integration"]
            integration = {"ApiId": api_id, "IntegrationUri": it["uri"], "IntegrationType": it["type"].upper()}
            integration["PayloadFormatVersion"] = it["payloadFormatVersion"]
            integration_id, _ = provisioners._apigw_v2_integration_create("", integration, "")
            route = {"ApiId": api_id, "RouteKey": f"{method.upper()} {path}"}
            route["Target"] = f"integrations/{integration_id}"
            for requirement in operation.get("security", []):
                [(name, scopes)] = requirement.items()
                route |= schemes[name] | {"AuthorizationScopes": scopes}
            provisioners._apigw_v2_route_create("", route, "")


def bridge_metrics() -> bool:
    """`Metrics` of an alarm: MiniStack rejects metric math. With this, it stores the first metric that is watched."""
    record = provisioners._cw_metric_alarm_record

    def recorded(name, props):
        if "Metrics" not in props:
            return record(name, props)
        stat = next(it["MetricStat"] for it in props["Metrics"] if "MetricStat" in it)
        flat = {key: value for key, value in props.items() if key != "Metrics"}
        return record(name, flat | stat["Metric"] | {"Statistic": stat["Stat"], "Period": stat["Period"]})

    provisioners._cw_metric_alarm_record = recorded
    metric = {"Stat": "Sum", "Period": 60, "Metric": {"Namespace": "x", "MetricName": "y"}}
    alarm = {"Threshold": 1, "ComparisonOperator": "GreaterThanThreshold"}
    try:
        record("probe", alarm | {"Metrics": [{"Id": "a", "MetricStat": metric}]})
    except ValueError:
        return True
    return False


def bridge_cluster() -> bool:
    """`AWS::DSQL::Cluster`: MiniStack has clusters, but not as stack resources; their endpoints look like AWS's."""
    kind = "AWS::DSQL::Cluster"
    needed = kind not in HANDLERS

    def answer(response):
        status, _, body = response
        if status >= 400:
            raise ValueError(json.loads(body)["message"])
        return json.loads(body)

    def protection(props):
        return str(props.get("DeletionProtectionEnabled", True)).lower() == "true"

    def create(_logical_id, props, _stack):
        made = answer(dsql._create_cluster({"deletionProtectionEnabled": protection(props)}))
        endpoint = f"{made['identifier']}.dsql.{dsql.get_region()}.on.aws"
        dsql._clusters[made["identifier"]]["endpoint"] = endpoint
        return made["identifier"], {"Endpoint": endpoint, "ResourceArn": made["arn"], "Identifier": made["identifier"]}

    def update(identifier, _old, new, _stack):
        answer(dsql._update_cluster(identifier, {"deletionProtectionEnabled": protection(new)}))
        cluster = dsql._clusters[identifier]
        return identifier, {"Endpoint": cluster["endpoint"], "ResourceArn": cluster["arn"], "Identifier": identifier}

    def delete(identifier, _props):
        answer(dsql._delete_cluster(identifier, {}))

    HANDLERS[kind] = {"create": create, "update": update, "delete": delete}
    return needed


def bridge_split() -> bool:
    """`Fn::Split` in a condition: MiniStack doesn't evaluate it, so `Fn::Select` finds nothing in it."""
    evaluate = engine._evaluate_conditions

    def split(expression, params):
        if isinstance(expression, list):
            return [split(it, params) for it in expression]
        if not isinstance(expression, dict):
            return expression
        if "Fn::Split" in expression:
            delimiter, text = expression["Fn::Split"]
            return params[text["Ref"]]["Value"].split(delimiter)
        return {name: split(it, params) for name, it in expression.items()}

    def changed(template, params):
        return evaluate(template | {"Conditions": split(template.get("Conditions", {}), params)}, params)

    first = {"Fn::Select": [0, {"Fn::Split": ["-", {"Ref": "Id"}]}]}
    try:
        probe = evaluate({"Conditions": {"Probe": {"Fn::Equals": [first, "a"]}}}, {"Id": {"Value": "a-b"}})
        needed = probe != {"Probe": True}
    except KeyError:
        needed = True
    for module in list(sys.modules.values()):
        if getattr(module, "_evaluate_conditions", None) is evaluate:
            module._evaluate_conditions = changed
    return needed


def bridge_proxy() -> bool:
    """MiniStack's stand-in for Aurora DSQL: on its own it requires Docker, and listens on all network interfaces.

    It supports neither users nor tokens. So it sits between the gate and the gate's second port, which logs in.
    """
    _, _, body = dsql._create_cluster({"deletionProtectionEnabled": False})
    identifier = json.loads(body)["identifier"]
    needed = not dsql._clusters[identifier]["_has_backend"]
    dsql._delete_cluster(identifier, {})

    async def serve():
        async def client(reader, writer):
            await pgproxy._handle_client("cluster", "127.0.0.1", int(os.environ["DOOR"]), reader, writer)

        server = await asyncio.start_server(client, "127.0.0.1", int(os.environ["PGPROXY"]))
        await server.serve_forever()

    threading.Thread(target=lambda: asyncio.run(serve()), daemon=True).start()
    return needed


def bridge_layers() -> None:
    """Layers of `provided.*`: MiniStack doesn't unpack them, and only root could write to /opt: another folder is used.

    scenario.py checks whether that is still so: no function can run here yet.
    """
    environment = lambda_svc._provided_worker_env
    lock = threading.Lock()

    def unpacked(layers: list[str]) -> Path:
        names = "+".join(arn.rpartition(":layer:")[2].replace(":", "-") for arn in layers)
        folder = Path(os.environ["TMPDIR"], "opt", names)
        with lock:
            if not folder.exists():
                for arn in layers:
                    zipfile.ZipFile(io.BytesIO(lambda_svc._resolve_layer_zip(arn))).extractall(folder)
                # Only Amazon can sign a certificate for Aurora DSQL, so the gate's authority is added.
                for roots in folder.glob("amazon-roots.pem"):
                    roots.write_text(roots.read_text() + Path(os.environ["AUTHORITY"]).read_text())
        return folder

    def changed(config, code_dir, port):
        folder = unpacked([it if isinstance(it, str) else it["Arn"] for it in config.get("Layers", [])])
        env = environment(config, code_dir, port)
        return {name: it.replace("/opt/", f"{folder}/") for name, it in env.items()}

    lambda_svc._provided_worker_env = changed


def lead_to_the_gate() -> None:
    """Not a bridge: only Amazon's servers resolve the name of a cluster, and its port, 5432, may be in use here.

    It also tells the gate which role was given which keys.
    """
    environment = lambda_svc._provided_worker_env
    lock = threading.Lock()

    def changed(config, code_dir, port):
        env = environment(config, code_dir, port)
        if env.get("DATABASE_AUTH") == "dsql":
            url = env["DATABASE_URL"].replace(":5432/", f":{os.environ['GATE']}/")
            env["DATABASE_URL"] = f"{url}&hostaddr=127.0.0.1"
        keys = {name: env[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")}
        with lock, open(os.environ["SESSIONS"], "a", encoding="utf-8") as sessions:
            sessions.write(json.dumps(keys | {"Role": config["Role"]}) + "\n")
        return env

    lambda_svc._provided_worker_env = changed


if __name__ == "__main__":
    for bridge in (bridge_body, bridge_metrics, bridge_cluster, bridge_split, bridge_proxy):
        if not bridge():
            raise SystemExit(f"MiniStack no longer needs {bridge.__name__}: remove it from dev/deployment/bridges.py")
    bridge_layers()
    lead_to_the_gate()
    app.main()
