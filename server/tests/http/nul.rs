//! NUL characters, which Postgres cannot store: every database gives the same answer, and it is ours.

use crate::farm::{FILMS, Options, TestFarm};
use pictor_test_servers::Postgres;
use reqwest::Method;
use serde_json::json;

#[tokio::test]
async fn a_text_with_a_nul_is_refused_by_both_databases_in_our_words() {
    for database in [None, Some(Postgres::start().database())] {
        let options = Options { idle: true, database, ..Options::default() };
        let farm = TestFarm::with(options).await;
        let submit = json!({ "job": FILMS, "source_name": "a\0b" });
        let set = json!({ "job": FILMS, "set": { "name": "a\0b" } });
        let token = json!({ "name": "a\0b", "role": "viewer", "account": "a" });
        let job = json!({ "text": FILMS, "source_name": "a\0b" });
        let nightly = json!({ "name": "a", "cron": "@daily", "zone": "UTC", "job": job });
        for (path, body) in [
            ("/v1/runs", &submit),
            ("/v1/runs", &set),
            ("/v1/tokens", &token),
            ("/v1/schedules", &nightly),
        ] {
            let problem = farm.post(path, body).await.refused(400, "invalid_request");
            assert!(problem["detail"].as_str().unwrap().contains("NUL"), "{problem}");
        }
        for path in [
            "/v1/runs/a%00b",
            "/v1/runs?name=a%00b",
            "/v1/runs?after=a%00b",
            "/v1/schedules/a%00b",
            "/v1/artifacts/runs/a%00b",
        ] {
            let problem = farm.get(path).await.refused(400, "invalid_request");
            assert!(problem["detail"].as_str().unwrap().contains("NUL"), "{problem}");
        }
        let yaml = async |job: String| {
            let request = farm.request(&farm.admin, Method::POST, "/v1/runs").body(job);
            farm.send(request.header("content-type", "application/yaml")).await
        };
        yaml(FILMS.replace("films", "fi\0lms")).await.refused(400, "invalid_request");
        let escaped = FILMS.replace("name: films", r#"name: "fi\0lms""#);
        let problem = yaml(escaped).await.refused(422, "invalid_job");
        assert!(problem["detail"].as_str().unwrap().contains("NUL"), "{problem}");
        farm.stop().await;
    }
}
