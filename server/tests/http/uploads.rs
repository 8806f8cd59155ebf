//! Files that jobs need: an account has what it has uploaded itself, as much as its quota, and learns nothing of others.

use crate::farm::{Answer, Options, TestFarm};
use pictor_api::TokenRole;
use pictor_server::http::{Limits, Quotas};
use pictor_tasks::pack::{PackManifest, PackedFile};
use pictor_tasks::units::Bytes;
use reqwest::Method;
use serde_json::{Value as Json, json};

const SCENE: &str = "pictor: v1\nname: still\nrender:\n  scene: a.blend\n  frames: 1\n";

fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

async fn put(farm: &TestFarm, token: &str, bytes: &[u8]) -> Answer {
    let path = format!("/v1/assets/{}", digest(bytes));
    farm.send(farm.request(token, Method::PUT, &path).body(bytes.to_vec())).await
}

async fn missing(farm: &TestFarm, token: &str, digests: &[&str]) -> Json {
    let body = json!({ "digests": digests });
    let answer = farm.call(token, Method::POST, "/v1/assets/missing", Some(&body)).await;
    answer.is(200)["missing"].take()
}

async fn submit(farm: &TestFarm, token: &str, assets: &Json) -> Answer {
    let body = json!({ "job": SCENE, "assets": assets });
    farm.call(token, Method::POST, "/v1/runs", Some(&body)).await
}

#[tokio::test]
async fn an_account_learns_nothing_of_the_files_of_others() {
    let farm = TestFarm::idle().await;
    let ada = farm.token(TokenRole::Submitter, "ada").await;
    let bob = farm.token(TokenRole::Submitter, "bob").await;
    let operator = farm.token(TokenRole::Operator, "root").await;
    let scene = digest(b"BLENDER");
    put(&farm, &ada, b"BLENDER").await.is(201);
    assert_eq!(missing(&farm, &ada, &[&scene]).await, json!([]));
    assert_eq!(missing(&farm, &bob, &[&scene]).await, json!([scene]));
    assert_eq!(missing(&farm, &operator, &[&scene]).await, json!([]));

    let assets = json!({ "a.blend": scene });
    submit(&farm, &ada, &assets).await.is(201);
    submit(&farm, &bob, &assets).await.refused(422, "missing_assets");
    let dry = json!({ "job": SCENE, "assets": assets, "dry_run": true });
    let dry = farm.call(&bob, Method::POST, "/v1/runs", Some(&dry)).await.is(200);
    assert_eq!(dry["plan"]["missing_assets"], json!(["a.blend"]));
    let job = json!({ "text": SCENE, "assets": assets });
    let nightly = json!({ "name": "nightly", "cron": "@daily", "zone": "UTC", "job": job });
    let added = farm.call(&bob, Method::POST, "/v1/schedules", Some(&nightly)).await;
    added.refused(422, "missing_assets");
    let key = format!("/v1/artifacts/assets/{scene}");
    farm.call(&bob, Method::GET, &key, None).await.refused(404, "not_found");
    assert_eq!(farm.call(&ada, Method::GET, &key, None).await.text(), "BLENDER");

    // Nor through a list of files that names it.
    let files = [(b"BLENDER".as_slice(), "a.blend"), (b"WOOD", "wood.png")];
    let files = files.map(|(bytes, path)| PackedFile {
        path: path.to_owned(),
        digest: digest(bytes),
        size_bytes: bytes.len() as u64,
    });
    let list = PackManifest::new("a.blend".to_owned(), files.to_vec()).unwrap().to_json();
    put(&farm, &bob, b"WOOD").await.is(201);
    put(&farm, &bob, &list).await.is(201);
    let packed = json!({ "a.blend": digest(&list) });
    let problem = submit(&farm, &bob, &packed).await.refused(422, "missing_assets");
    assert!(problem["detail"].as_str().unwrap().ends_with(": a.blend/a.blend"), "{problem}");

    // He uploads the same file: the answer is that of a new one, and it is stored once.
    put(&farm, &bob, b"BLENDER").await.is(201);
    put(&farm, &bob, b"BLENDER").await.is(204);
    submit(&farm, &bob, &packed).await.is(201);
    submit(&farm, &bob, &assets).await.is(201);
    assert_eq!(farm.call(&bob, Method::GET, &key, None).await.text(), "BLENDER");
    assert_eq!(std::fs::read_dir(farm.path("artifacts/assets")).unwrap().count(), 3);
    farm.stop().await;
}

#[tokio::test]
async fn an_account_uploads_as_much_as_its_quota() {
    let quotas = Quotas { upload_bytes: Bytes(10), ..Quotas::default() };
    let limits = Limits { quotas, ..Limits::default() };
    let options = Options { idle: true, limits: Some(limits), ..Options::default() };
    let farm = TestFarm::with(options).await;
    let ada = farm.token(TokenRole::Submitter, "ada").await;
    put(&farm, &ada, b"BLENDER").await.is(201);
    // What does not become a file does not count.
    let wrong = format!("/v1/assets/{}", digest(b"x"));
    let wrong = farm.request(&ada, Method::PUT, &wrong).body("y");
    farm.send(wrong).await.refused(422, "digest_mismatch");
    let problem = put(&farm, &ada, b"WOOD").await.refused(409, "quota_exceeded");
    let detail = problem["detail"].as_str().unwrap();
    for words in ["`ada` has uploaded 7 bytes", "10", "`upload_bytes` in `[quotas]`", "operator"] {
        assert!(detail.contains(words), "{detail}");
    }
    // A body of unknown length may be long.
    let put_pieces = |token: &str| {
        let path = format!("/v1/assets/{}", digest(b"abc"));
        let pieces = futures_util::stream::iter([Ok::<_, std::io::Error>("abc")]);
        farm.request(token, Method::PUT, &path).body(reqwest::Body::wrap_stream(pieces))
    };
    farm.send(put_pieces(&ada)).await.refused(409, "quota_exceeded");
    put(&farm, &ada, b"BLENDER").await.is(204);
    put(&farm, &ada, b"abc").await.is(201);
    put(&farm, &ada, b"x").await.refused(409, "quota_exceeded");
    put(&farm, &farm.token(TokenRole::Submitter, "bob").await, b"WOOD").await.is(201);
    let operator = farm.token(TokenRole::Operator, "ada").await;
    farm.send(put_pieces(&operator)).await.is(204);
    farm.stop().await;
}
