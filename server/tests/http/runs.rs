//! Runs and their tasks, as the API shows them.

use crate::farm::{FILMS, MILLION, TestFarm};
use serde_json::Value as Json;
use sqlx::ConnectOptions as _;

#[tokio::test]
async fn a_run_is_done_and_can_be_looked_at() {
    let farm = TestFarm::start().await;
    let id = farm.submit(&farm.admin, FILMS).await;
    farm.until_over(&id).await;
    let run = farm.get(&format!("/v1/runs/{id}")).await.is(200);
    assert_eq!((&run["state"], &run["name"]), (&"succeeded".into(), &"films".into()));
    assert_eq!((&run["owner"], &run["tasks"]["succeeded"]), (&"root".into(), &6.into()));
    let steps = run["steps"].as_array().unwrap();
    assert_eq!((&steps[0]["name"], &steps[0]["size"]), (&"make".into(), &5.into()));
    assert_eq!((&steps[0]["over"][0], &steps[0]["kind"]), (&"frame".into(), &"command".into()));
    assert!(run["finished_ms"].is_i64() && steps[1]["mean_ms"].is_number(), "{run}");
    // An unambiguous beginning of the id is enough.
    let short = farm.get(&format!("/v1/runs/{}", &id[..id.len() - 2])).await.is(200);
    assert_eq!(short["id"], run["id"]);
    farm.get("/v1/runs/nobody").await.refused(404, "not_found");
    farm.get("/v1/runs/nobody/graph").await.refused(404, "not_found");

    let graph = farm.get(&format!("/v1/runs/{id}/graph")).await.is(200);
    assert_eq!(graph["dimensions"][0]["name"], "frame");
    assert_eq!(graph["dimensions"][0]["size"], 5);
    let need = &graph["needs"][0];
    assert_eq!((&need["from"], &need["to"]), (&"make".into(), &"join".into()));
    assert_eq!((&need["shared"], &need["soft"]), (&Json::Array(vec![]), &false.into()));

    let task = farm.get(&format!("/v1/runs/{id}/tasks/make[frame=3]")).await.is(200);
    assert_eq!(task["task"]["state"], "succeeded");
    let attempt = &task["attempts"][0];
    assert_eq!((&attempt["attempt"], &attempt["state"]), (&1.into(), &"succeeded".into()));
    let output = &task["outputs"][0];
    assert_eq!((&output["name"], &output["size_bytes"]), (&"text".into(), &9.into()));
    let digest = blake3::hash(b"picture 3").to_hex().to_string();
    assert_eq!(output["digest"], digest.as_str());
    let encoded = format!("/v1/runs/{id}/tasks/make%5Bframe%3D3%5D");
    assert_eq!(farm.get(&encoded).await.is(200)["task"], task["task"]);
    farm.get(&format!("/v1/runs/{id}/tasks/make[frame=9]")).await.refused(404, "not_found");
    farm.stop().await;
}

#[tokio::test]
async fn a_task_is_answered_without_the_history_of_the_others() {
    let farm = TestFarm::start().await;
    let id = farm.submit(&farm.admin, FILMS).await;
    farm.until_over(&id).await;
    let path = format!("/v1/runs/{id}/tasks/make[frame=3]");
    let (task, log) = (farm.get(&path).await.is(200), farm.get(&format!("{path}/log")).await.bytes);
    assert_eq!(task["attempts"].as_array().unwrap().len(), 1);
    // Whoever reads the rows of another task finds that they are not all there.
    let database = sqlx::sqlite::SqliteConnectOptions::new().filename(farm.path("pictor.sqlite"));
    let mut on = database.connect().await.unwrap();
    let remove = "DELETE FROM attempt WHERE NOT (step = 0 AND task = 2)";
    let removed = sqlx::query(remove).execute(&mut on).await.unwrap();
    assert_eq!(removed.rows_affected(), 5);
    assert_eq!(farm.get(&path).await.is(200), task);
    assert_eq!(farm.get(&format!("{path}/log")).await.bytes, log);
    farm.stop().await;
}

#[tokio::test]
async fn a_run_that_is_over_is_answered_from_history() {
    let farm = TestFarm::start().await;
    let id = farm.submit(&farm.admin, FILMS).await;
    farm.until_over(&id).await;
    let live = farm.get(&format!("/v1/runs/{id}")).await.is(200);
    let later = TestFarm::idle().await;
    // The same run in another farm, whose engine never had it.
    let run = pictor_tasks::message::RunId(id.as_str().into());
    let stored = farm.store.run_plan(&run).await.unwrap().unwrap();
    let record = farm.store.run(&id).await.unwrap().unwrap();
    let new = pictor_storage::NewRun {
        id: run.clone(),
        name: record.name,
        spec: stored.spec,
        source_name: record.source_name,
        plan: stored.plan,
        fold_version: stored.fold_version,
        account: record.account,
        priority: record.priority,
        created_ms: record.created_ms,
        out_dir: String::new(),
    };
    later.store.create_run(&new, None).await.unwrap();
    let mut rows = Vec::new();
    farm.store.load_history(&run, 1, &mut |row| rows.push(row)).await.unwrap();
    let state = Some((pictor_engine::RunState::Succeeded, record.finished_ms));
    let rows = [pictor_storage::RunRows { run: &run, rows: &rows, state }];
    later.store.commit(&rows).await.unwrap();
    for _ in 0..2 {
        assert_eq!(later.get(&format!("/v1/runs/{id}")).await.is(200), live);
    }
    let tasks = later.get(&format!("/v1/runs/{id}/tasks?state=succeeded")).await.is(200);
    assert_eq!(tasks["items"].as_array().unwrap().len(), 6);
    // It is added to the engine again to be changed.
    let body = serde_json::json!({ "tasks": ["join"] });
    let again = later.post(&format!("/v1/runs/{id}/reset"), &body).await.is(200);
    assert_eq!((&again["count"], &again["run"]["state"]), (&1.into(), &"running".into()));
    farm.stop().await;
    later.stop().await;
}

#[tokio::test]
async fn runs_are_filtered_and_paged() {
    let farm = TestFarm::idle().await;
    let mut ids = Vec::new();
    for (i, name) in ["alpha", "beta", "Alphabet", "gamma"].iter().enumerate() {
        let job = FILMS.replace("name: films", &format!("name: {name}"));
        let owner = if i == 3 { "other" } else { "root" };
        let token = farm.token(pictor_api::TokenRole::Submitter, owner).await;
        ids.push(farm.submit(&token, &job).await);
    }
    farm.post(&format!("/v1/runs/{}/cancel", ids[1]), &Json::Null).await.is(200);
    let names = async |query: &str| -> Vec<String> {
        let page = farm.get(&format!("/v1/runs{query}")).await.is(200);
        let items = page["items"].as_array().unwrap().iter();
        items.map(|run| run["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("").await, ["gamma", "Alphabet", "beta", "alpha"]);
    assert_eq!(names("?name=alph").await, ["Alphabet", "alpha"]);
    assert_eq!(names("?owner=other").await, ["gamma"]);
    assert_eq!(names("?state=cancelled").await, ["beta"]);
    assert_eq!(names("?state=running&owner=root").await, ["Alphabet", "alpha"]);
    let first = farm.get("/v1/runs?limit=3").await.is(200);
    assert_eq!(first["items"].as_array().unwrap().len(), 3);
    assert_eq!(first["items"][0]["tasks"]["ready"], 5);
    let next = format!("?limit=3&after={}", first["next"].as_str().unwrap());
    assert_eq!(names(&next).await, ["alpha"]);
    assert_eq!(farm.get(&format!("/v1/runs{next}")).await.is(200)["next"], Json::Null);
    for bad in ["?limit=0", "?limit=1001", "?limit=x", "?state=fine", "?after=", "?colour=1"] {
        farm.get(&format!("/v1/runs{bad}")).await.refused(400, "invalid_request");
    }
    farm.get("/v1/runs?after=nobody").await.refused(404, "not_found");
    farm.stop().await;
}

#[tokio::test]
async fn tasks_are_filtered_by_step_state_and_dimension_and_paged() {
    let farm = TestFarm::idle().await;
    let id = farm.submit(&farm.admin, MILLION).await;
    let tasks = async |query: &str| farm.get(&format!("/v1/runs/{id}/tasks{query}")).await.is(200);
    let names = |page: &Json| -> Vec<String> {
        let items = page["items"].as_array().unwrap().iter();
        items.map(|task| task["name"].as_str().unwrap().to_owned()).collect()
    };
    let page = tasks("?dim.frame=7&limit=2").await;
    assert_eq!(names(&page), ["render[frame=7,tile=0]", "render[frame=7,tile=1]"]);
    let reason = page["items"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("the label `nowhere`") || reason == "there is no worker", "{reason}");
    let page = tasks("?dim.frame=999&dim.tile=998").await;
    assert_eq!(names(&page), ["render[frame=999,tile=998]"]);
    assert_eq!(page["next"], Json::Null);
    // Through all pages: a whole column and the task that joins it.
    let (mut found, mut query) = (Vec::new(), "?dim.frame=3&limit=300".to_owned());
    loop {
        let page = tasks(&query).await;
        found.extend(names(&page));
        let Some(next) = page["next"].as_str() else { break };
        query = format!("?dim.frame=3&limit=300&after={next}");
    }
    assert_eq!(found.len(), 1001);
    assert_eq!(found[1000], "join[frame=3]");
    assert!(found.iter().take(1000).all(|name| name.starts_with("render[frame=3,tile=")));
    let page = tasks("?state=pending&step=join&limit=1").await;
    let reason = "waits for render[frame=0,tile=0] and 999 more";
    assert_eq!(page["items"][0]["reason"], reason);
    for none in ["?state=failed", "?dim.frame=1000", "?dim.frame=x", "?step=join&dim.tile=1"] {
        let page = tasks(none).await;
        assert_eq!((names(&page).len(), &page["next"]), (0, &Json::Null), "{none}");
    }
    let get = async |query: &str| farm.get(&format!("/v1/runs/{id}/tasks{query}")).await;
    for unknown in ["?step=paint", "?dim.colour=1"] {
        get(unknown).await.refused(404, "not_found");
    }
    for bad in ["?dim.=1", "?state=done", "?after=1", "?after=", "?limit=0", "?sort=1"] {
        get(bad).await.refused(400, "invalid_request");
    }
    farm.stop().await;
}
