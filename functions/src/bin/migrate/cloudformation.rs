//! The protocol of a CloudFormation custom resource.
//!
//! Source: <https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/crpg-ref.html>

use std::time::Duration;

use lambda_runtime::Error;
use serde::Deserialize;
use serde_json::{Value, json};
use ureq::{
    Agent,
    tls::{RootCerts, TlsConfig, TlsProvider},
};

/// Time limit of each attempt to send the response.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How many attempts there are: without the response, the stack waits until its `ServiceTimeout`.
const ATTEMPTS: usize = 3;

/// A request from CloudFormation.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Request {
    request_type: String,
    #[serde(rename = "ResponseURL")]
    response_url: String,
    stack_id: String,
    request_id: String,
    logical_resource_id: String,
    physical_resource_id: Option<String>,
    pub(crate) resource_properties: Value,
}

impl Request {
    pub(crate) fn is_delete(&self) -> bool {
        self.request_type == "Delete"
    }
}

/// Reports the outcome to CloudFormation.
///
/// # Errors
/// If no attempt to send the response succeeded.
pub(crate) async fn answer(request: &Request, outcome: Result<Value, Error>) -> Result<(), Error> {
    let (status, reason) = match outcome {
        Ok(result) => ("SUCCESS", result.to_string()),
        Err(error) => ("FAILED", error.to_string()),
    };
    let body = json!({
        "Status": status,
        "Reason": reason,
        // A different id would make CloudFormation replace the resource.
        "PhysicalResourceId": request.physical_resource_id.as_deref().unwrap_or("users"),
        "StackId": request.stack_id,
        "RequestId": request.request_id,
        "LogicalResourceId": request.logical_resource_id,
    });
    let (url, body) = (request.response_url.clone(), body.to_string());
    Ok(tokio::task::spawn_blocking(move || put(&url, &body)).await??)
}

fn put(url: &str, body: &str) -> Result<(), ureq::Error> {
    let tls =
        TlsConfig::builder().provider(TlsProvider::NativeTls).root_certs(RootCerts::PlatformVerifier).build();
    let agent: Agent =
        Agent::config_builder().tls_config(tls).timeout_global(Some(ANSWER_TIMEOUT)).build().into();
    let mut attempts = 1;
    loop {
        // The URL's signature is for a request without a content type.
        match agent.put(url).content_type("").send(body) {
            Err(_) if attempts < ATTEMPTS => attempts += 1,
            result => return result.map(|_| ()),
        }
    }
}
