//! What the commands answer to arguments, before they start anything.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{net::TcpListener, process::Command};

/// Runs a command, and returns its exit code, its output and its errors.
fn xtask(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(arguments)
        .env_remove("DATABASE_URL")
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn every_command_explains_itself_and_no_other() {
    let commands = ["dev", "migrate", "test", "mutants", "docs", "check", "bench", "fuzz"];
    for command in commands {
        let (code, help, errors) = xtask(&[command, "--help"]);
        assert_eq!((code, errors.as_str()), (Some(0), ""), "{command}");
        for other in commands {
            assert_eq!(help.contains(&format!("\n  {other} ")), other == command, "{other} in {help}");
        }
    }
    let (_, help, _) = xtask(&["dev", "--help"]);
    assert!(["--port", "--fresh", "--data"].iter().all(|option| help.contains(option)), "{help}");
}

#[test]
fn what_a_command_does_not_know_is_refused() {
    for arguments in [
        &["migrate", "--fresh"][..],
        &["dev", "now"],
        &["docs", "a", "b"],
        &["bench", "now"],
        &["bench", "--rounds", "many"],
        &["bench", "instructions", "now"],
        &["fuzz", "much"],
        &["nothing"],
        &["nothing", "-h"],
    ] {
        let (code, _, errors) = xtask(arguments);
        assert_eq!(code, Some(1), "{arguments:?}");
        assert!(errors.contains("--help`"), "{arguments:?}: {errors}");
    }
}

#[test]
fn an_unknown_check_is_refused_with_the_list_of_the_known() {
    let (code, _, errors) = xtask(&["check", "formatting"]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("no check `formatting`") && errors.contains("\n  format: "), "{errors}");
}

#[test]
fn a_port_that_is_taken_is_said_to_be_taken() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (code, _, errors) = xtask(&["dev", "--port", &port.to_string()]);
    assert_eq!(code, Some(1));
    assert!(errors.contains(&format!("port {port} is taken")), "{errors}");
}
