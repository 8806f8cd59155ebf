//! Runs a command with private servers around it: `pictor-with-servers postgres rabbitmq s3 -- COMMAND`. The servers
//! end with the command; their addresses are in its environment.
#![expect(clippy::print_stderr, reason = "a command speaks to its user")]

use pictor_test_servers::{Postgres, RabbitMq, S3};
use std::process::{Command, ExitCode};

const USAGE: &str = "usage: pictor-with-servers [postgres] [rabbitmq] [s3] -- COMMAND [ARGUMENTS]
The command finds POSTGRES_URL, AMQP_URL, RABBITMQ_URL (management), S3_ENDPOINT, S3_BUCKET,
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION in its environment.";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    // If this process is killed, the kernel ends the command.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM"]);
    let mut s3 = None;
    for server in arguments.by_ref().take_while(|argument| argument != "--") {
        match server.as_str() {
            "postgres" => _ = command.env("POSTGRES_URL", Postgres::start().database()),
            "rabbitmq" => {
                let vhost = RabbitMq::start().vhost();
                command.env("AMQP_URL", vhost.amqp_url).env("RABBITMQ_URL", vhost.management_url);
            }
            "s3" => {
                let server = s3.insert(S3::start());
                command.env("S3_ENDPOINT", server.endpoint()).env("S3_BUCKET", server.bucket());
                command.env("AWS_ACCESS_KEY_ID", server.access_key());
                command.env("AWS_SECRET_ACCESS_KEY", server.secret_key());
                command.env("AWS_REGION", server.region());
            }
            _ => return fail(USAGE),
        }
    }
    let words: Vec<_> = arguments.collect();
    if words.is_empty() {
        return fail(USAGE);
    }
    match command.args(words).status() {
        // The shell's convention for a process that was ended by a signal.
        Ok(status) => u8::try_from(status.code().unwrap_or(128)).unwrap_or(1).into(),
        Err(error) => fail(&format!("cannot run setpriv (package util-linux): {error}")),
    }
}

fn fail(sentence: &str) -> ExitCode {
    eprintln!("{sentence}");
    ExitCode::from(2)
}
