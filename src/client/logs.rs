//! Prints the log of a task on a server, even while it grows.

use crate::client::connection::{Call, Connection, Patience};
use crate::terminal::pass_on;

/// Prints the log of an attempt; with `follow`, until the attempt ends. Returns the number of bytes.
pub(crate) async fn follow_log(
    server: &Connection,
    run: &str,
    task: &str,
    attempt: u32,
    follow: bool,
) -> anyhow::Result<u64> {
    let path = ["runs", run, "tasks", task, "log"];
    let (mut printed, mut patience) = (0, Patience::default());
    loop {
        let query = [
            ("attempt", attempt.to_string()),
            ("offset", printed.to_string()),
            ("follow", follow.to_string()),
        ];
        let call = Call { query: &query, ..Call::get(&path) };
        let mut response = server.start(&call).await?;
        let cut = loop {
            match response.chunk().await {
                Ok(Some(piece)) => {
                    patience.reset();
                    printed += piece.len() as u64;
                    pass_on(&piece);
                }
                Ok(None) => return Ok(printed),
                Err(error) => break server.unreachable(error),
            }
        };
        // The connection was lost: continue where it stopped.
        if !patience.wait(&cut).await {
            return Err(cut.into());
        }
    }
}
