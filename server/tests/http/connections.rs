//! Connections that ask nothing, or ask too slowly.

use crate::farm::{FILMS, Options, TestFarm};
use pictor_server::http::Limits;
use reqwest::Method;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

async fn with(limits: Limits) -> TestFarm {
    TestFarm::with(Options { idle: true, limits: Some(limits), ..Options::default() }).await
}

async fn connect(farm: &TestFarm, said: &str) -> TcpStream {
    let mut stream = TcpStream::connect(farm.url.trim_start_matches("http://")).await.unwrap();
    stream.write_all(said.as_bytes()).await.unwrap();
    stream
}

/// All that the server answers before it closes the connection.
async fn answered(stream: &mut TcpStream) -> String {
    let (mut answer, limit) = (Vec::new(), Duration::from_secs(30));
    // A connection that was reset has been closed as well.
    let _ = tokio::time::timeout(limit, stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn idle_connections_without_a_token_keep_nobody_out() {
    let farm = with(Limits { connections: 20, ..Limits::default() }).await;
    // A stream of events has sent its request and is not idle.
    let mut events = farm.request(&farm.admin, Method::GET, "/v1/events").send().await.unwrap();
    let mut idle = Vec::new();
    for number in 0..200 {
        idle.push(connect(&farm, if number % 2 == 0 { "" } else { "GET /v1/runs HT" }).await);
        if number % 20 == 0 {
            farm.get("/v1/runs").await.is(200);
        }
    }
    farm.get("/v1/runs").await.is(200);
    let run = farm.submit(&farm.admin, FILMS).await;
    let event = events.chunk().await.unwrap().unwrap();
    assert!(std::str::from_utf8(&event).unwrap().contains(&run));
    // The ones that were idle for the longest time have made room.
    assert_eq!(answered(&mut idle[0]).await, "");
    drop((events, idle));
    farm.stop().await;
}

#[tokio::test]
async fn a_connection_does_not_wait_for_a_request_for_ever() {
    let header_timeout = Duration::from_millis(300);
    let farm = with(Limits { header_timeout, ..Limits::default() }).await;
    let mut silent = connect(&farm, "").await;
    let mut slow = connect(&farm, "GET /healthz HTTP/1.1\r\nHost: a\r\n").await;
    let mut kept = connect(&farm, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(answered(&mut silent).await, "");
    assert!(!answered(&mut slow).await.contains("200"));
    assert!(answered(&mut kept).await.starts_with("HTTP/1.1 200"));
    farm.stop().await;
}

#[tokio::test]
async fn a_body_that_stops_arriving_is_not_waited_for() {
    let body_timeout = Duration::from_millis(300);
    let farm = with(Limits { body_timeout, ..Limits::default() }).await;
    let digest = blake3::hash(b"x").to_hex();
    for path in [format!("PUT /v1/assets/{digest}"), "POST /v1/runs".to_owned()] {
        let head = format!(
            "{path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Length: 100\r\n\
             Content-Type: application/json\r\n\r\n{{",
            farm.admin
        );
        let answer = answered(&mut connect(&farm, &head).await).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert!(answer.contains("it arrives too slowly"), "{answer}");
    }
    farm.stop().await;
}
