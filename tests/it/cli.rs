//! Tests of cli: the real binary, its help, exit codes and what it prints.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic, too")]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

use tempfile::TempDir;

use crate::ports::free_port;

const HUB_KEY: &str = "aHVzaC1odXNoLWh1c2gtaHVzaA==";
const GROUP_KEY: &str = "Z3JvdXAta2V5LWdyb3VwLWtleQ==";

/// The binary in a folder of its own, with no variable of the outside.
fn binary(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tti-connector"));
    command.current_dir(folder).env_clear();
    command
}

fn run(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    binary(folder.path()).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn folder_with(toml: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tti-connector.toml"), toml).unwrap();
    folder
}

fn valid() -> String {
    format!(
        "[webhook]\nsecrets = ['hush-webhook']\n[azure.iot_hub]\nconnection_string = \
         'HostName=hub-1.azure-devices.net;SharedAccessKeyName=device;SharedAccessKey={HUB_KEY}'\n\
         [azure.applications.cold-chain.dps]\nid_scope = '0ne00123ABC'\ngroup_enrollment_key = '{GROUP_KEY}'\n"
    )
}

#[test]
fn every_command_explains_itself() {
    let commands = ["run", "check-config", "demo", "emulate", "replay", "spool", "health"];
    let overview = run(&["--help"]);
    for command in commands {
        assert!(stdout(&overview).contains(&format!("  {command} ")), "{command}");
        let help = run(&[command, "--help"]);
        assert_eq!(help.status.code(), Some(0));
        assert!(stdout(&help).contains(&format!("Usage: tti-connector {command}")), "{}", stdout(&help));
    }
    for command in ["list", "show", "requeue", "discard"] {
        let help = run(&["spool", command, "--help"]);
        assert!(
            stdout(&help).contains(&format!("Usage: tti-connector spool {command}")),
            "{}",
            stdout(&help)
        );
    }
}

#[test]
fn the_first_line_of_every_help_has_no_full_stop() {
    for command in ["run", "check-config", "demo", "emulate", "replay", "spool", "health"] {
        let help = stdout(&run(&[command, "-h"]));
        let first = help.lines().next().unwrap();
        assert!(first.len() > 20 && !first.ends_with('.'), "{first}");
    }
}

#[test]
fn version_names_the_binary_and_its_version() {
    let version = stdout(&run(&["--version"]));
    assert_eq!(version.trim(), concat!("tti-connector ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_arguments_end_with_2_and_a_hint() {
    let output = run(&["chek-config"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("check-config"), "{}", stderr(&output));
    for arguments in [
        &["emulate", "--hubs", "0"][..],
        &["emulate", "--webhook-secret-file", "secret"],
        &["emulate", "--webhook", "no url"],
        &["emulate", "--tier", "free"],
        &["emulate", "--feedback-delay", "2h"],
        &["replay", "x.json"],
        &["spool", "discard"],
        &["spool", "discard", "--all", "7"],
        &["replay", "--to", "http://127.0.0.1/"],
        &["replay", "a.json", "--parked", "--to", "http://127.0.0.1/"],
        &["replay", "a.json", "--reason", "rejected", "--to", "http://127.0.0.1/"],
        &["health", "--url", "http://127.0.0.1:1", "--ready"],
    ] {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn check_config_says_who_goes_where_without_a_secret() {
    let folder = folder_with(&valid());
    let output =
        binary(folder.path()).arg("check-config").env("TTI_CONNECTOR__LOG__LEVEL", "debug").output().unwrap();
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(text.starts_with("configuration is valid\n"), "{text}");
    for part in [
        "tti-connector.toml and 1 environment variable",
        "cold-chain -> DPS 0ne00123ABC at global.azure-devices-provisioning.net",
        "every other application -> hub hub-1.azure-devices.net, policy device",
        "http://127.0.0.1:8080/webhook, 1 secret",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    for secret in ["hush", HUB_KEY, GROUP_KEY] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[test]
fn check_config_says_who_gets_downlinks_and_what_is_missing() {
    let said = |more: &str| {
        let folder = folder_with(&(valid() + more));
        let output = binary(folder.path()).arg("check-config").output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(!stdout(&output).contains("hush"), "{}", stdout(&output));
        stdout(&output)
    };
    let nothing = said("");
    assert!(
        nothing.contains("every other application: none, as things_stack.base_url is not set"),
        "{nothing}"
    );
    let text = said(
        "[things_stack]\nbase_url = 'https://eu1.example.com'\n[things_stack.applications.vineyard]\n\
         api_key = 'NNSXS.hush'\n[things_stack.applications.cellar]\nwebhook_id = 'azure'\n[downlink]\nport = 7\n\
         [downlink.applications.cold-chain]\nroutes = []\n[downlink.applications.vineyard]\nroutes = ['c2d']\n",
    );
    for line in [
        "downlinks  cellar: by c2d, method, twin, but things_stack.applications.cellar has no api_key: only while \
         its webhook sends one; FPort 7 unless said\n",
        "           cold-chain: none, as downlink.applications.cold-chain.routes is empty\n",
        "           vineyard: by c2d, with its key at https://eu1.example.com; FPort 7 unless said\n",
        "           every other application: by c2d, method, twin, once its webhook sends an API key; FPort 7",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[test]
fn check_config_reports_all_problems_at_once_and_ends_with_78() {
    let toml = valid()
        + "[spool]\ndirectroy = 'x'\n[azure.dps]\nid_scope = '0ne1'\ngroup_enrollment_key = 'hush-group'\n";
    let folder = folder_with(&toml);
    let mut command = binary(folder.path());
    let output = command.arg("check-config").env("TTI_CONNECTOR__AZURE__KEEP_ALIVE", "5m").output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert_eq!(stdout(&output), "");
    for part in [
        "error: the configuration has 4 problems",
        "azure.keep_alive (in environment variable TTI_CONNECTOR__AZURE__KEEP_ALIVE): 5m is outside 1s to 110s",
        "azure.dps.group_enrollment_key (in tti-connector.toml): no base64",
        "spool.directroy (in tti-connector.toml): unknown key",
        "did you mean `spool.directory`?",
        "both a hub (azure.iot_hub) and DPS (azure.dps)",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    for secret in ["hush", HUB_KEY, GROUP_KEY] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[test]
fn spool_commands_want_their_own_section_to_be_right_and_no_other() {
    let folder = folder_with("[azure.dps]\nid_scope = '0ne1'\ngroup_enrollment_key_file = '/nowhere'\n");
    let list = |change: (&str, &str)| {
        binary(folder.path()).args(["spool", "list"]).env(change.0, change.1).output().unwrap()
    };
    let output = list(("TTI_CONNECTOR__SPOOL__MAX_MESSAGES", "1000"));
    // There is no spool yet, and that is all it has to say.
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("tti-connector-data"), "{}", stderr(&output));
    let output = list(("TTI_CONNECTOR__SPOOL__MAX_MESSAGES", "1"));
    assert_eq!(output.status.code(), Some(78));
    let text = stderr(&output);
    assert!(
        text.contains("the configuration has 1 problem") && text.contains("spool.max_messages"),
        "{text}"
    );
}

#[test]
fn run_refuses_a_configuration_with_problems_with_78() {
    let output = run(&["run"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("neither a hub nor DPS is configured"), "{}", stderr(&output));
}

#[test]
fn the_file_is_the_argument_before_the_variable_before_the_folder() {
    let folder = folder_with("[log]\nlevel = 'in the folder'\n");
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("argument.toml"), "[log]\nlevel = 'x'\n").unwrap();
    std::fs::write(path("variable.toml"), "[log]\nlevel = 'x'\n").unwrap();
    let place = |command: &mut Command| stderr(&command.arg("check-config").output().unwrap());

    let text = place(&mut binary(folder.path()));
    assert!(text.contains("(in tti-connector.toml)"), "{text}");
    let text = place(binary(folder.path()).env("TTI_CONNECTOR_CONFIG", "variable.toml"));
    assert!(text.contains("(in variable.toml)"), "{text}");
    let mut command = binary(folder.path());
    command.args(["check-config", "--config", "argument.toml"]).env("TTI_CONNECTOR_CONFIG", "variable.toml");
    let text = stderr(&command.output().unwrap());
    assert!(text.contains("(in argument.toml)"), "{text}");
    let text = stderr(&run(&["check-config", "--config", "absent.toml"]));
    assert!(text.contains("absent.toml") && text.contains("can't be read"), "{text}");
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_unicode_is_a_problem_and_no_panic() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let folder = folder_with(&valid());
    let mut command = binary(folder.path());
    command.arg("check-config").env("SOMEBODY", OsStr::from_bytes(b"\xff"));
    assert_eq!(command.output().unwrap().status.code(), Some(0), "a variable of somebody else");
    let output =
        command.env("TTI_CONNECTOR__WEBHOOK__SECRETS", OsStr::from_bytes(b"s\xff")).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("not UTF-8"), "{}", stderr(&output));
}

/// Answers one connection with `answer`; gives its port and, in the end, the request.
fn answer_once(answer: &'static str) -> (u16, thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut buffer = [0; 1024];
        while !request.ends_with(b"\r\n\r\n") {
            let read = stream.read(&mut buffer).unwrap();
            assert!(read > 0, "a whole request");
            request.extend_from_slice(&buffer[..read]);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    });
    (port, served)
}

#[test]
fn health_is_0_when_the_connector_is_well() {
    let (port, served) = answer_once("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nlive\n");
    let folder = folder_with(&valid());
    let mut command = binary(folder.path());
    // A listener on every address is asked over loopback.
    let output = command
        .arg("health")
        .env("TTI_CONNECTOR__ADMIN__LISTEN", format!("0.0.0.0:{port}"))
        .output()
        .unwrap();
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), "live\n"), "{}", stderr(&output));
    let request = served.join().unwrap();
    assert!(request.starts_with("GET /live HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("Host: 127.0.0.1:{port}\r\n")), "{request}");
}

#[test]
fn health_is_1_when_the_connector_is_not_well() {
    let (port, served) = answer_once("HTTP/1.1 503 Service Unavailable\r\n\r\nthe spool can't write");
    let output = run(&["health", "--url", &format!("http://127.0.0.1:{port}/ready?x=1")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("answered 503: the spool can't write"), "{}", stderr(&output));
    assert!(served.join().unwrap().starts_with("GET /ready?x=1 HTTP/1.1\r\n"));

    let (port, served) = answer_once("SSH-2.0-other\r\n");
    let output = run(&["health", "--url", &format!("http://127.0.0.1:{port}/")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no HTTP answer"), "{}", stderr(&output));
    served.join().unwrap();
}

#[test]
fn health_is_1_when_nobody_answers_or_the_configuration_has_problems() {
    let free = free_port(&[Ipv4Addr::LOCALHOST.into()]);
    let output = run(&["health", "--url", &format!("http://127.0.0.1:{free}/live")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("can't be reached"), "{}", stderr(&output));
    assert!(stderr(&output).contains("cause: "), "{}", stderr(&output));
    assert_eq!(run(&["health", "--url", "https://127.0.0.1/live"]).status.code(), Some(1));
    assert_eq!(run(&["health"]).status.code(), Some(1), "Docker knows 0 and 1 only");
}

#[cfg(not(feature = "emulator"))]
#[test]
fn demo_and_emulate_say_that_they_are_left_out() {
    for command in ["demo", "emulate"] {
        let output = run(&[command]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("without the feature `emulator`"), "{}", stderr(&output));
    }
}

#[test]
#[cfg(feature = "emulator")]
fn a_taken_port_of_the_demo_is_named_with_the_option_that_changes_it() {
    let options = ["--webhook-port", "--amqp-port", "--https-port", "--things-stack-port"];
    for option in options {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let mut arguments = vec!["demo".to_owned()];
        for each in options {
            let port = if each == option { address.port() } else { 0 };
            arguments.extend([each.to_owned(), port.to_string()]);
        }
        let output = run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(69), "{said}");
        assert!(said.contains(&address.to_string()) && said.contains(option), "{said}");
    }
}

#[test]
fn a_replay_summary_ends_its_line() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("one.json"), "{}").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/webhook", listener.local_addr().unwrap());
    let served = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; 4096];
        let mut seen = 0;
        while !head[..seen].ends_with(b"{}") {
            let read = stream.read(&mut head[seen..]).unwrap();
            assert_ne!(read, 0, "the request broke off");
            seen += read;
        }
        stream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
    });
    let output = binary(folder.path()).args(["replay", "one.json", "--to", &url]).output().unwrap();
    served.join().unwrap();
    assert!(stdout(&output).ends_with("202 Accepted: 1\n"), "{:?}", stdout(&output));
}
