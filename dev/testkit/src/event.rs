//! Events as API Gateway's HTTP APIs send them, payload format 2.0.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

/// Who sends a request, as the route's authorizer knows it.
#[derive(Clone, Copy, Debug)]
pub enum Caller<'a> {
    /// Whoever wants to: the route has no authorizer.
    Anybody,
    /// The ARN that belongs to credentials of IAM, as `aws sts get-caller-identity` tells it.
    Iam(&'a str),
    /// The id of an identity of a Cognito identity pool, and the ARN of the role's session that it was given.
    Identity(&'a str, &'a str),
    /// The claims of a JWT.
    Token(&'a [(&'a str, &'a str)]),
}

impl Caller<'_> {
    /// `requestContext.authorizer`.
    fn authorizer(self) -> Option<Value> {
        let iam = |arn: &str, identity: Option<&str>| {
            let account = arn.split(':').nth(4).unwrap_or_default();
            let id = match arn.split_once(":assumed-role/").and_then(|(_, role)| role.rsplit_once('/')) {
                Some((_, session)) => format!("AROAIOSFODNN7EXAMPLE:{session}"),
                None => "AIDAIOSFODNN7EXAMPLE".to_owned(),
            };
            let cognito = identity.map(|identity| {
                json!({
                    "amr": ["authenticated", "cognito-idp.eu-central-1.amazonaws.com/eu-central-1_xmpl"],
                    "identityId": identity,
                    "identityPoolId": "eu-central-1:5f2cbf1e-0c2b-4b4d-9d5e-0a1b2c3d4e5f",
                })
            });
            json!({ "iam": {
                "accessKey": "ASIAIOSFODNN7EXAMPLE",
                "accountId": account,
                "callerId": id,
                "cognitoIdentity": cognito,
                "principalOrgId": null,
                "userArn": arn,
                "userId": id,
            } })
        };
        Some(match self {
            Self::Anybody => return None,
            Self::Iam(arn) => iam(arn, None),
            Self::Identity(identity, arn) => iam(arn, Some(identity)),
            Self::Token(claims) => {
                let claims: Map<_, _> =
                    claims.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
                json!({ "jwt": { "claims": claims, "scopes": null } })
            }
        })
    }
}

/// An event under construction. It becomes a [`Value`], which a test may damage further.
#[derive(Clone, Debug)]
pub struct Event {
    event: Value,
}

impl Event {
    /// `GET` of a path, as a client writes it in the request line.
    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// `POST` to a path; see [`Event::get`].
    pub fn post(path: &str) -> Self {
        Self::new("POST", path)
    }

    /// `PUT` to a path; see [`Event::get`].
    pub fn put(path: &str) -> Self {
        Self::new("PUT", path)
    }

    /// `DELETE` of a path; see [`Event::get`].
    pub fn delete(path: &str) -> Self {
        Self::new("DELETE", path)
    }

    /// A request with any method; see [`Event::get`]. What follows a collection, `/api/users` for example, is an id.
    pub fn new(method: &str, path: &str) -> Self {
        // API Gateway decodes path parameters, and the path with them.
        let decoded = percent_decode_str(path).decode_utf8_lossy().into_owned();
        let (collection, id) = match path.match_indices('/').nth(2) {
            Some((at, _)) => (&path[..at], Some(&path[at + 1..])),
            None => (path, None),
        };
        let route = format!("{method} {collection}{}", if id.is_some() { "/{id}" } else { "" });
        let mut event = json!({
            "version": "2.0",
            "routeKey": route,
            "rawPath": decoded,
            "rawQueryString": "",
            "headers": {
                "accept": "*/*",
                "host": "a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com",
                "user-agent": "curl/8.5.0",
                "x-amzn-trace-id": "Root=1-67891233-abcdef012345678912345678",
                "x-forwarded-for": "203.0.113.7",
                "x-forwarded-port": "443",
                "x-forwarded-proto": "https",
            },
            "requestContext": {
                "accountId": "123456789012",
                "apiId": "a1b2c3d4e5",
                "domainName": "a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com",
                "domainPrefix": "a1b2c3d4e5",
                "http": {
                    "method": method,
                    "path": decoded,
                    "protocol": "HTTP/1.1",
                    "sourceIp": "203.0.113.7",
                    "userAgent": "curl/8.5.0",
                },
                "requestId": "JKJaXmPLvHcESHA=",
                "routeKey": route,
                "stage": "$default",
                "time": "16/Jan/2025:14:05:39 +0000",
                "timeEpoch": 1_737_036_339_000_u64,
            },
            "isBase64Encoded": false,
        });
        if let Some(id) = id {
            event["pathParameters"] = json!({ "id": percent_decode_str(id).decode_utf8_lossy() });
        }
        Self { event }
    }

    /// Its route, `GET /api/users/{id}` for example.
    pub fn route(&self) -> &str {
        self.event["routeKey"].as_str().unwrap_or_default()
    }

    /// The same with another id in the path, as a client writes it.
    ///
    /// # Panics
    /// When the route has none.
    pub fn with_id(mut self, id: &str) -> Self {
        let (method, path) = self.route().split_once(' ').expect("a method and a path");
        assert!(path.contains("{id}"), "{path} has no id");
        let other = Self::new(method, &path.replace("{id}", id)).event;
        self.event["requestContext"]["http"]["path"] = other["rawPath"].clone();
        for member in ["rawPath", "pathParameters"] {
            self.event[member] = other[member].clone();
        }
        self
    }

    /// The same without a body, and the headers that it had for it.
    pub fn without_body(mut self) -> Self {
        for header in ["content-type", "content-length"] {
            self.event["headers"].as_object_mut().and_then(|headers| headers.remove(header));
        }
        self.event.as_object_mut().and_then(|event| event.remove("body"));
        self
    }

    /// A header; repeated ones are joined by commas, as API Gateway does.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let header = &mut self.event["headers"][name.to_ascii_lowercase()];
        *header = match header.as_str() {
            Some(first) => json!(format!("{first},{value}")),
            None => json!(value),
        };
        self
    }

    /// Sent by somebody whom the route's authorizer knows.
    pub fn by(mut self, caller: Caller<'_>) -> Self {
        if let Some(authorizer) = caller.authorizer() {
            self.event["requestContext"]["authorizer"] = authorizer;
        }
        self
    }

    /// At a stage other than `$default`, which is then the first segment of the path.
    pub fn stage(mut self, stage: &str) -> Self {
        for path in ["/rawPath", "/requestContext/http/path"] {
            let path = self.event.pointer_mut(path).expect("every event has it");
            *path = json!(format!("/{stage}{}", path.as_str().unwrap_or_default()));
        }
        self.event["requestContext"]["stage"] = json!(stage);
        self
    }

    /// The query string as it stands in the URL, without the `?`.
    pub fn query(mut self, raw: &str) -> Self {
        let decode =
            |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        let mut parameters = Map::new();
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name), decode(value));
            let joined = match parameters.get(&name).and_then(Value::as_str) {
                Some(first) => format!("{first},{value}"),
                None => value,
            };
            parameters.insert(name, json!(joined));
        }
        self.event["rawQueryString"] = json!(raw);
        self.event["queryStringParameters"] = Value::Object(parameters);
        self
    }

    /// A body of JSON, with its Content-Type.
    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(&body.to_string())
    }

    /// A body of text. It says nothing of its Content-Type.
    pub fn body(mut self, body: &str) -> Self {
        self.event["body"] = json!(body);
        self.event["headers"]["content-length"] = json!(body.len().to_string());
        self
    }

    /// A body of any bytes, in base64, as API Gateway sends what is not text.
    pub fn bytes(mut self, body: &[u8]) -> Self {
        self.event["body"] = json!(BASE64_STANDARD.encode(body));
        self.event["headers"]["content-length"] = json!(body.len().to_string());
        self.event["isBase64Encoded"] = json!(true);
        self
    }
}

impl From<Event> for Value {
    fn from(event: Event) -> Self {
        event.event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_what_api_gateway_makes_of_a_request() {
        let event = Value::from(
            Event::get("/api/users/%37%20x")
                .query("limit=%31&limit=2&a+b=")
                .header("X-One", "1")
                .header("x-one", "2"),
        );
        assert_eq!(event["routeKey"], "GET /api/users/{id}");
        assert_eq!(event["pathParameters"], json!({ "id": "7 x" }));
        assert_eq!(event["rawPath"], "/api/users/7 x");
        assert_eq!(event["rawQueryString"], "limit=%31&limit=2&a+b=");
        assert_eq!(event["queryStringParameters"], json!({ "limit": "1,2", "a b": "" }));
        assert_eq!(event["headers"]["x-one"], "1,2");
        assert_eq!(event.get("body"), None);

        let event = Value::from(Event::get("/api/users").stage("prod"));
        assert_eq!(
            (&event["rawPath"], &event["routeKey"]),
            (&json!("/prod/api/users"), &json!("GET /api/users"))
        );
        assert_eq!(event.pointer("/requestContext/http/path"), Some(&json!("/prod/api/users")));

        let event = Value::from(Event::post("/api/users").bytes(b"\xff"));
        assert_eq!(event["routeKey"], "POST /api/users");
        assert_eq!(event.get("pathParameters"), None);
        assert_eq!((&event["body"], &event["isBase64Encoded"]), (&json!("/w=="), &json!(true)));
        assert_eq!(event["headers"]["content-length"], "1");
    }

    #[test]
    fn an_event_says_who_called_as_the_authorizers_do() {
        let context = |caller| Value::from(Event::get("/api/users").by(caller))["requestContext"].take();
        assert_eq!(context(Caller::Anybody).get("authorizer"), None);

        let arn = "arn:aws:sts::210987654321:assumed-role/Writer/session";
        let iam = context(Caller::Iam(arn))["authorizer"]["iam"].take();
        assert_eq!((&iam["userArn"], &iam["accountId"]), (&json!(arn), &json!("210987654321")));
        assert_eq!(
            (&iam["userId"], &iam["cognitoIdentity"]),
            (&json!("AROAIOSFODNN7EXAMPLE:session"), &Value::Null)
        );
        let iam = context(Caller::Identity("eu-central-1:1", arn))["authorizer"]["iam"].take();
        assert_eq!(
            (&iam["userArn"], &iam["cognitoIdentity"]["identityId"]),
            (&json!(arn), &json!("eu-central-1:1"))
        );

        let jwt = context(Caller::Token(&[("sub", "alice")]))["authorizer"]["jwt"].take();
        assert_eq!(jwt, json!({ "claims": { "sub": "alice" }, "scopes": null }));
    }
}
