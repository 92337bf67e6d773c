//! A binary run as Lambda runs it.

use std::{
    fmt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::Value;

use crate::runtime_api::{NoResult, Posted, RuntimeApi};

/// Lambda's timeout for the endpoints.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A running execution environment: one process of one binary, killed when dropped.
#[derive(Debug)]
pub struct Function {
    name: String,
    child: Child,
    api: Arc<RuntimeApi>,
    invocations: AtomicU32,
}

impl Function {
    /// Starts a binary with the variables that Lambda sets, those given, and no others.
    ///
    /// # Panics
    /// When the process can't be started.
    pub fn start(binary: impl AsRef<Path>, env: &[(&str, &str)]) -> Self {
        Self::start_with_timeout(TIMEOUT, binary, env)
    }

    /// The same for a function to which Lambda gives so much time.
    ///
    /// # Panics
    /// As [`Function::start`].
    pub fn start_with_timeout(timeout: Duration, binary: impl AsRef<Path>, env: &[(&str, &str)]) -> Self {
        let binary = binary.as_ref();
        let name = binary.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let stdout = writer.try_clone().expect("its end for stdout");
        let stderr = writer.try_clone().expect("its end for stderr");
        let api = RuntimeApi::start(timeout, (reader, writer));
        let child = Command::new(binary)
            .env_clear()
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
            .env("AWS_LAMBDA_FUNCTION_NAME", &name)
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_LAMBDA_LOG_FORMAT", "JSON")
            .env("AWS_LAMBDA_RUNTIME_API", api.address())
            .env("AWS_REGION", "eu-central-1")
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .unwrap_or_else(|error| panic!("starting {}: {error}", binary.display()));
        thread::spawn({
            let (api, pid) = (Arc::clone(&api), Pid::from_child(&child));
            move || {
                // NOWAIT leaves the zombie to `Drop`, so that the id stays this process's.
                let ended = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
                api.exited(match ended {
                    Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => format!("exit code {code}"),
                        (_, Some(signal)) => format!("signal {signal}"),
                        _ => "unknown".to_owned(),
                    },
                    Ok(None) | Err(_) => "unknown".to_owned(),
                });
            }
        });
        Self { name, child, api, invocations: AtomicU32::new(0) }
    }

    /// Waits until the init phase is over: the process asks for its first invocation.
    ///
    /// # Panics
    /// When the process ends instead, or after 20 seconds more than its timeout.
    pub fn wait_for_init(&self) {
        assert!(self.api.wait_for_init(), "{} did not start\nIts log:\n{}", self.name, self.log().join("\n"));
    }

    /// The answer to an event.
    ///
    /// # Panics
    /// When there is none: a function error, a dead process, or silence until 20 seconds after its timeout.
    pub fn invoke(&self, event: impl Into<Value>) -> Answer {
        self.start_invoke(event).wait()
    }

    /// The answer to an event whose invocation has a chosen `Lambda-Runtime-Aws-Request-Id`.
    ///
    /// # Panics
    /// As [`Function::invoke`].
    pub fn invoke_as(&self, request_id: &str, event: impl Into<Value>) -> Answer {
        self.start_invoke_as(request_id, event).wait()
    }

    /// Hands over an event without waiting for its answer. A process takes one at a time.
    pub fn start_invoke(&self, event: impl Into<Value>) -> Pending<'_> {
        let number = self.invocations.fetch_add(1, Ordering::Relaxed);
        let id = format!("6bc28136-xmpl-4365-b021-{:04x}{number:08x}", self.pid() & 0xffff);
        self.start_invoke_as(&id, event)
    }

    /// [`Function::start_invoke`] with a chosen request id.
    pub fn start_invoke_as(&self, request_id: &str, event: impl Into<Value>) -> Pending<'_> {
        let event: Value = event.into();
        self.api.enqueue(request_id, event.to_string());
        Pending { function: self, request_id: request_id.to_owned() }
    }

    /// The lines that the process has written so far, to stdout or stderr.
    pub fn log(&self) -> Vec<String> {
        self.api.log.lines()
    }

    /// Freezes the process, as Lambda does between invocations, until [`Function::thaw`].
    ///
    /// # Panics
    /// When it has ended.
    pub fn freeze(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).expect("stopping the process");
        // Returns once it has stopped, not merely been told to.
        waitid(WaitId::Pid(Pid::from_child(&self.child)), WaitIdOptions::STOPPED).expect("its stop");
    }

    /// Ends a freeze.
    ///
    /// # Panics
    /// When the process has ended.
    pub fn thaw(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).expect("continuing the process");
    }

    /// The id of the process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        // Fails when the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.api.stop();
    }
}

/// An invocation under way.
#[derive(Debug)]
pub struct Pending<'a> {
    function: &'a Function,
    request_id: String,
}

impl Pending<'_> {
    /// The answer, once it is there.
    ///
    /// # Panics
    /// As [`Function::invoke`].
    pub fn wait(self) -> Answer {
        let function = self.function;
        self.try_wait().unwrap_or_else(|failure| {
            panic!("{}: {failure}\nIts log:\n{}", function.name, function.log().join("\n"))
        })
    }

    /// The answer, or why there is none.
    pub fn try_wait(self) -> Result<Answer, Failure> {
        let posted = self.posted()?;
        Ok(Answer::parse(self.request_id, &posted.body, posted.log))
    }

    /// What the function returned, which is no answer to API Gateway, or why there is nothing.
    ///
    /// # Panics
    /// When it is no JSON.
    pub fn result(self) -> Result<Value, Failure> {
        Ok(serde_json::from_str(&self.posted()?.body).expect("a result is JSON"))
    }

    fn posted(&self) -> Result<Posted, Failure> {
        let posted = self.function.api.wait(&self.request_id).map_err(|no_result| match no_result {
            NoResult::InitError(error) => Failure::Init(error),
            NoResult::Exited(status) => Failure::Exited(status),
            NoResult::TimedOut => Failure::TimedOut,
        })?;
        if posted.is_error {
            return Err(Failure::FunctionError(posted.body));
        }
        Ok(posted)
    }
}

/// Why an invocation has no answer. API Gateway would make 500 or 503 of each.
#[derive(Debug)]
pub enum Failure {
    /// The process reported a function error.
    FunctionError(String),
    /// The process reported that it can't start.
    Init(String),
    /// The process ended.
    Exited(String),
    /// Nothing came until 20 seconds after its timeout.
    TimedOut,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FunctionError(error) => write!(f, "a function error instead of an answer: {error}"),
            Self::Init(error) => write!(f, "an init error instead of an answer: {error}"),
            Self::Exited(status) => write!(f, "the process ended ({status}) without an answer"),
            Self::TimedOut => write!(f, "no answer, long after the timeout"),
        }
    }
}

/// A function's answer, as API Gateway would pass it on.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers; payload format 2.0 has one value each.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
    /// The invocation's `Lambda-Runtime-Aws-Request-Id`.
    pub request_id: String,
    /// The lines that the process wrote while it made this answer.
    pub log: Vec<String>,
}

impl Answer {
    fn parse(request_id: String, posted: &str, log: Vec<String>) -> Self {
        let answer: Value = serde_json::from_str(posted).expect("a response is JSON");
        let body = answer["body"].as_str().unwrap_or_default();
        let body = if answer["isBase64Encoded"] == true {
            let bytes = BASE64_STANDARD.decode(body).expect("the body is in base64");
            String::from_utf8(bytes).expect("the body is text")
        } else {
            body.to_owned()
        };
        let status = answer["statusCode"].as_u64().expect("a response has a status code");
        let headers = answer["headers"].as_object().into_iter().flatten();
        Self {
            status: status.try_into().expect("an HTTP status"),
            headers: headers
                .map(|(name, value)| (name.clone(), value.as_str().expect("a header is a string").to_owned()))
                .collect(),
            body,
            request_id,
            log,
        }
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is something else.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in the body {:?}", self.body))
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Event;

    fn start(names: [&str; 2]) -> Function {
        let binary = names.into_iter().find(|name| Path::new(name).exists()).unwrap();
        Function::start(binary, &[("TESTKIT", "1")])
    }

    #[test]
    fn a_process_that_ends_is_told_from_one_that_answers() {
        let function = start(["/bin/false", "/usr/bin/false"]);
        let failure = function.start_invoke(Event::get("/api/users")).try_wait().unwrap_err();
        assert_eq!(failure.to_string(), "the process ended (exit code 1) without an answer");
    }

    #[test]
    fn a_process_gets_our_environment_and_no_other_and_its_log_is_kept() {
        let function = start(["/usr/bin/env", "/bin/env"]);
        assert!(function.start_invoke(Event::get("/api/users")).try_wait().is_err());
        let mut log = function.log();
        log.sort();
        let names: Vec<_> = log.iter().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        let expected = [
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
            "AWS_LAMBDA_FUNCTION_NAME",
            "AWS_LAMBDA_FUNCTION_VERSION",
            "AWS_LAMBDA_LOG_FORMAT",
            "AWS_LAMBDA_RUNTIME_API",
            "AWS_REGION",
            "TESTKIT",
        ];
        assert_eq!(names, expected);
    }
}
