//! Results, ranges, assets and logs.

use crate::farm::{FILMS, TestFarm};
use reqwest::Method;
use reqwest::header::{IF_NONE_MATCH, IF_RANGE, RANGE};
use serde_json::{Value as Json, json};

#[tokio::test]
async fn results_are_listed_and_downloaded_by_path() {
    let farm = TestFarm::start().await;
    let id = farm.submit(&farm.admin, FILMS).await;
    farm.until_over(&id).await;
    let mut files = Vec::new();
    let mut query = "?limit=2".to_owned();
    loop {
        let page = farm.get(&format!("/v1/runs/{id}/files{query}")).await.is(200);
        files.extend(page["items"].as_array().unwrap().iter().cloned());
        let Some(next) = page["next"].as_str() else { break };
        query = format!("?limit=2&after={next}");
    }
    let paths: Vec<&str> = files.iter().map(|file| file["path"].as_str().unwrap()).collect();
    let frames = (1..=5).map(|frame| format!("frames/{frame:04}.txt"));
    assert_eq!(paths, frames.chain(["film.txt".to_owned()]).collect::<Vec<_>>());
    assert_eq!((&files[2]["task"], &files[2]["size_bytes"]), (&"make[frame=3]".into(), &9.into()));
    for file in &files {
        let path = format!("/v1/runs/{id}/files/{}", file["path"].as_str().unwrap());
        let answer = farm.get(&path).await;
        assert_eq!(answer.status, 200);
        let digest = blake3::hash(&answer.bytes).to_hex().to_string();
        assert_eq!(file["digest"], digest.as_str());
        assert_eq!(answer.header("etag"), format!("\"{digest}\""));
        assert!(answer.header("content-type").starts_with("text/plain"));
        let key = farm.get(&format!("/v1/artifacts/{}", file["key"].as_str().unwrap())).await;
        assert_eq!((key.status.as_u16(), key.bytes), (200, answer.bytes));
    }
    for none in ["frames/0006.txt", "frames/3.txt", "nothing", "film.txt/x"] {
        farm.get(&format!("/v1/runs/{id}/files/{none}")).await.refused(404, "not_found");
    }
    for none in
        ["runs/x/y", "assets/x", "other", &format!("runs/{id}/make/0/1/x"), "../pictor.sqlite"]
    {
        farm.get(&format!("/v1/artifacts/{none}")).await.refused(404, "not_found");
    }
    farm.get("/v1/artifacts/runs%2F..%2F..%2Fpictor.sqlite").await.refused(404, "not_found");
    farm.stop().await;
}

#[tokio::test]
async fn parts_of_files_are_answered_as_the_standard_says() {
    let farm = TestFarm::start().await;
    let id = farm.submit(&farm.admin, FILMS).await;
    farm.until_over(&id).await;
    let path = format!("/v1/runs/{id}/files/frames/0004.txt");
    let ask = async |headers: &[(reqwest::header::HeaderName, &str)]| {
        let request = farm.request(&farm.admin, Method::GET, &path);
        let with = |request: reqwest::RequestBuilder, (name, value): &(_, &str)| {
            request.header(name, *value)
        };
        farm.send(headers.iter().fold(request, with)).await
    };
    let whole = ask(&[]).await;
    assert_eq!((whole.text(), whole.header("accept-ranges")), ("picture 4".into(), "bytes"));
    for (range, text, content) in [
        ("bytes=0-2", "pic", "bytes 0-2/9"),
        ("bytes=4-", "ure 4", "bytes 4-8/9"),
        ("bytes=-1", "4", "bytes 8-8/9"),
        ("bytes=8-100", "4", "bytes 8-8/9"),
    ] {
        let part = ask(&[(RANGE, range)]).await;
        assert_eq!((part.status.as_u16(), part.text()), (206, text.to_owned()), "{range}");
        assert_eq!(part.header("content-range"), content);
        assert_eq!(part.header("content-length"), text.len().to_string());
    }
    let beyond = ask(&[(RANGE, "bytes=9-")]).await;
    beyond.refused(416, "range_not_satisfiable");
    assert_eq!(beyond.header("content-range"), "bytes */9");
    assert_eq!(ask(&[(RANGE, "bytes=0-1,3-4")]).await.text(), "picture 4");
    let tag = whole.header("etag").to_owned();
    assert_eq!(ask(&[(IF_NONE_MATCH, &tag)]).await.status, 304);
    assert_eq!(ask(&[(IF_NONE_MATCH, &format!("\"x\", W/{tag}"))]).await.status, 304);
    assert_eq!(ask(&[(IF_NONE_MATCH, "\"x\"")]).await.status, 200);
    assert_eq!(ask(&[(RANGE, "bytes=0-2"), (IF_RANGE, &tag)]).await.status, 206);
    assert_eq!(ask(&[(RANGE, "bytes=0-2"), (IF_RANGE, "\"x\"")]).await.status, 200);
    let head = farm.send(farm.request(&farm.admin, Method::HEAD, &path)).await;
    assert_eq!((head.status.as_u16(), head.header("content-length")), (200, "9"));
    farm.stop().await;
}

#[tokio::test]
async fn assets_are_uploaded_once_and_only_with_the_right_digest() {
    let farm = TestFarm::idle().await;
    let big = vec![b'x'; 3 << 20];
    let digest = blake3::hash(&big).to_hex().to_string();
    let empty = blake3::hash(b"").to_hex().to_string();
    let ask = json!({ "digests": [digest, empty] });
    let missing = farm.post("/v1/assets/missing", &ask).await.is(200);
    assert_eq!(missing["missing"], json!([digest, empty]));
    let put = async |digest: &str, bytes: Vec<u8>| {
        let path = format!("/v1/assets/{digest}");
        farm.send(farm.request(&farm.admin, Method::PUT, &path).body(bytes)).await
    };
    put(&digest, b"something else".to_vec()).await.refused(422, "digest_mismatch");
    let missing = farm.post("/v1/assets/missing", &ask).await.is(200);
    assert_eq!(missing["missing"], json!([digest, empty]));
    put(&digest, big.clone()).await.is(201);
    put(&digest, big.clone()).await.is(204);
    put(&empty, Vec::new()).await.is(201);
    put("abc", Vec::new()).await.refused(400, "invalid_request");
    let missing = farm.post("/v1/assets/missing", &ask).await.is(200);
    assert_eq!(missing["missing"], json!([]));
    let back = farm.get(&format!("/v1/artifacts/assets/{digest}")).await;
    assert_eq!((back.header("etag").len(), back.bytes), (66, big));
    assert_eq!(std::fs::read_dir(farm.path("spool")).unwrap().count(), 0);
    let bad = json!({ "digests": ["x"] });
    farm.post("/v1/assets/missing", &bad).await.refused(400, "invalid_request");
    farm.stop().await;
}

#[tokio::test]
async fn a_log_is_read_from_any_place_and_followed_to_its_end() {
    let farm = TestFarm::start().await;
    let gate = farm.path("shared/gate");
    let job = "pictor: v1\nname: talk\nsteps:\n  - name: say\n    command:\n      run: [sh, -c, \
               'echo one; echo two; while ! test -e \"$1\"; do sleep 0.05; done; echo three', sh, \"@\"]\n";
    let id = farm.submit(&farm.admin, &job.replace('@', gate.to_str().unwrap())).await;
    let path = format!("/v1/runs/{id}/tasks/say/log");
    let follow = farm.request(&farm.admin, Method::GET, &format!("{path}?follow=true"));
    let mut follow = follow.send().await.unwrap();
    let mut text = String::new();
    while !text.contains("two\n") {
        text += std::str::from_utf8(&follow.chunk().await.unwrap().unwrap()).unwrap();
    }
    assert_eq!(text, "one\ntwo\n");
    assert_eq!(farm.get(&format!("{path}?offset=4")).await.text(), "two\n");
    std::fs::write(gate, "").unwrap();
    while let Some(piece) = follow.chunk().await.unwrap() {
        text += std::str::from_utf8(&piece).unwrap();
    }
    assert_eq!(text, "one\ntwo\nthree\n");
    let whole = farm.get(&path).await;
    assert_eq!(whole.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(
        (whole.text(), farm.get(&format!("{path}?attempt=1")).await.text()),
        (text.clone(), text)
    );
    assert_eq!(farm.get(&format!("{path}?attempt=2")).await.text(), "");
    for beyond in [999, 100_000_000_000_001, u64::MAX] {
        assert_eq!(farm.get(&format!("{path}?offset={beyond}")).await.text(), "", "{beyond}");
    }
    farm.get(&format!("{path}?offset=-1")).await.refused(400, "invalid_request");
    farm.get(&format!("/v1/runs/{id}/tasks/sing/log")).await.refused(404, "not_found");
    assert_eq!(
        farm.get(&format!("/v1/runs/{id}/files")).await.is(200)["items"],
        Json::Array(vec![])
    );
    farm.stop().await;
}
