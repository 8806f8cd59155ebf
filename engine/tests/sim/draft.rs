//! Random jobs with every kind of dimension and need, in every order, small enough for brute force.

use super::rng::Rng;
use pictor_engine::{Plan, compile};
use pictor_tasks::body::{Body, Noop};
use pictor_tasks::job::spec::JobSpec;
use pictor_tasks::units::Millis;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The most tasks of one step.
const TASKS_MAX: u32 = 18;

/// A dimension of the draft.
#[derive(Clone, Debug)]
struct Dim {
    name: String,
    root: String,
    by: Option<String>,
    /// The most values that it can have.
    most: u32,
}

/// The plan of a random job that compiles.
pub(crate) fn plan(rng: &mut Rng) -> Plan {
    loop {
        let spec: JobSpec = serde_json::from_value(job(rng)).unwrap();
        if let Ok(mut plan) = compile(&spec) {
            if rng.percent(50) {
                make_bodies_empty(&mut plan, rng);
            }
            return plan;
        }
    }
}

/// Replaces the bodies by ones that do nothing: a plan need not come from a job file.
fn make_bodies_empty(plan: &mut Plan, rng: &mut Rng) {
    for step in &mut plan.steps {
        let duration = rng.percent(30).then_some(Millis(20));
        step.body = Body::Noop(Noop { duration });
    }
}

fn job(rng: &mut Rng) -> Value {
    let mut dims = Vec::new();
    let (mut specs, mut binders) = (Map::new(), Vec::new());
    for number in 0..rng.below(5) {
        let name = format!("d{number}");
        let (dim, spec) = dim(rng, &name, &dims, &mut binders);
        dims.push(dim);
        specs.insert(name, spec);
    }
    let mut steps: Vec<Value> = Vec::new();
    let mut overs: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let plain = 1 + rng.below(4) as usize;
    let mut names: Vec<String> = (0..plain).map(|i| format!("s{i}")).collect();
    for binder in binders.keys_in_order() {
        names.insert(rng.below(2) as usize * (names.len() / 2), binder);
    }
    for name in &names {
        let over = if name.starts_with('b') { vec![] } else { over(rng, &dims) };
        let mut step = json!({ "name": name, "over": over });
        let needs = needs(rng, name, &over, &overs);
        step["needs"] = needs.into();
        decorate(rng, &mut step, &binders.of(name));
        overs.insert(name.clone(), over);
        steps.push(step);
    }
    add_cycle(rng, &mut steps, &overs);
    add_retention(rng, &mut steps);
    rng.shuffle(&mut steps);
    let mut job = json!({ "pictor": "v1", "name": "sim", "dims": specs, "steps": steps });
    job["retry"] = json!({
        "attempts": 1 + rng.below(3),
        "backoff": format!("{}ms", rng.below(4) * 1500),
    });
    match rng.below(7) {
        0 => job["on_failure"] = "stop".into(),
        1 => job["max_failures"] = (1 + rng.below(3)).into(),
        _ => {}
    }
    if rng.percent(25) {
        job["order"] = "preview".into();
    }
    job
}

/// The dimensions that each step reports.
trait Binders {
    fn keys_in_order(&self) -> Vec<String>;
    fn of(&self, name: &str) -> Vec<String>;
}

impl Binders for Vec<(String, String)> {
    fn keys_in_order(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.iter().map(|(binder, _)| binder.clone()).collect();
        keys.sort();
        keys.dedup();
        keys
    }

    fn of(&self, name: &str) -> Vec<String> {
        self.iter().filter(|(b, _)| b == name).map(|(_, dim)| dim.clone()).collect()
    }
}

fn dim(
    rng: &mut Rng,
    name: &str,
    dims: &[Dim],
    binders: &mut Vec<(String, String)>,
) -> (Dim, Value) {
    let plain = |most| Dim { name: name.into(), root: name.into(), by: None, most };
    let uncut: Vec<&Dim> = dims.iter().filter(|d| d.by.is_none()).collect();
    let mut bind = |rng: &mut Rng| {
        let binder = format!("b{}", rng.below(2));
        binders.push((binder.clone(), name.to_owned()));
        binder
    };
    match rng.below(10) {
        0 => (plain(3), json!({ "range": *rng.pick(&["1-3", "5,3,9", "10-30x10"]) })),
        1 => (plain(2), json!({ "values": ["red", "blue"] })),
        2 => (plain(4), json!({ "count": 1 + rng.below(4) })),
        3 => (plain(2), json!({ "grid": "2x1" })),
        4 | 5 => {
            let allow_empty = rng.percent(40);
            (plain(4), json!({ "from": bind(rng), "allow_empty": allow_empty }))
        }
        6 | 7 if !uncut.is_empty() => {
            let of = *rng.pick(&uncut);
            let size = 1 + rng.below(3);
            let root = of.root.clone();
            let dim = Dim { root, most: of.most.div_ceil(size), ..plain(0) };
            (dim, json!({ "of": of.name, "size": size }))
        }
        8 | 9 if !uncut.is_empty() => {
            let by = *rng.pick(&uncut);
            let count = 1 + rng.below(3);
            let dim = Dim { by: Some(by.name.clone()), ..plain(count) };
            let mut spec = json!({ "bounded_by": by.name });
            if rng.percent(60) {
                spec["from"] = bind(rng).into();
            } else {
                let counts: Vec<u32> = (0..by.most).map(|_| rng.below(count + 1)).collect();
                spec["counts"] = counts.into();
            }
            let limited = rng.percent(60);
            let dim = if limited { dim } else { Dim { most: 3, ..dim } };
            if limited {
                spec["count"] = count.into();
            }
            (dim, spec)
        }
        _ => (plain(1), json!({ "range": "7" })),
    }
}

fn over(rng: &mut Rng, dims: &[Dim]) -> Vec<String> {
    let mut order: Vec<&Dim> = dims.iter().collect();
    rng.shuffle(&mut order);
    let (mut over, mut size): (Vec<&Dim>, u32) = (Vec::new(), 1);
    for dim in order {
        let by = dim.by.as_ref().map(|by| dims.iter().find(|d| d.name == *by).unwrap());
        let mut wanted: Vec<&Dim> = by.into_iter().chain([dim]).collect();
        wanted.retain(|w| !over.iter().any(|o| o.name == w.name));
        let clash = wanted.iter().any(|w| over.iter().any(|o| o.root == w.root));
        let grown = wanted.iter().fold(size, |size, w| size * w.most);
        if rng.percent(60) && !clash && grown <= TASKS_MAX {
            over.extend(wanted);
            size = grown;
        }
    }
    if rng.percent(30) {
        over.reverse();
    }
    over.into_iter().map(|dim| dim.name.clone()).collect()
}

fn needs(
    rng: &mut Rng,
    name: &str,
    over: &[String],
    before: &BTreeMap<String, Vec<String>>,
) -> Vec<Value> {
    let mut needs = Vec::new();
    let known: Vec<&String> = before.keys().collect();
    if !known.is_empty() {
        for _ in 0..rng.below(4) {
            let step = *rng.pick(&known);
            needs.push(need(rng, step, over, &before[step], None));
        }
    }
    if !over.is_empty() && rng.percent(25) {
        let sign = if rng.percent(50) { -1 } else { 1 };
        for _ in 0..=rng.below(2) {
            let by = sign * (1 + i32::try_from(rng.below(2)).unwrap());
            needs.push(need(rng, name, over, over, Some((over[0].clone(), by))));
        }
    }
    needs
}

fn need(
    rng: &mut Rng,
    step: &str,
    over: &[String],
    theirs: &[String],
    offset: Option<(String, i32)>,
) -> Value {
    let mut offsets = Map::new();
    let common: Vec<&String> = over.iter().filter(|d| theirs.contains(d)).collect();
    if let Some((dim, by)) = offset {
        offsets.insert(dim, by.into());
    } else if !common.is_empty() && rng.percent(30) {
        offsets.insert((*rng.pick(&common)).clone(), rng.between(-2, 2).into());
    }
    let on = if rng.percent(30) { "finished" } else { "success" };
    json!({ "step": step, "offset": offsets, "on": on })
}

/// Makes an earlier step need a later one at an earlier position: a cycle of steps, but not of tasks.
fn add_cycle(rng: &mut Rng, steps: &mut [Value], overs: &BTreeMap<String, Vec<String>>) {
    if steps.len() < 2 || !rng.percent(25) {
        return;
    }
    let first = rng.below(u32::try_from(steps.len() - 1).unwrap()) as usize;
    let last = first + 1;
    let name = |step: &Value| step["name"].as_str().unwrap().to_owned();
    let (a, b) = (name(&steps[first]), name(&steps[last]));
    if let Some(dim) = overs[&a].iter().find(|dim| overs[&b].contains(dim)) {
        let back = need(rng, &b, &overs[&a], &overs[&b], Some((dim.clone(), -1)));
        steps[first]["needs"].as_array_mut().unwrap().push(back);
        let there = json!({ "step": a });
        steps[last]["needs"].as_array_mut().unwrap().push(there);
    }
}

/// Has some results removed when a later step is done.
fn add_retention(rng: &mut Rng, steps: &mut [Value]) {
    let needs: BTreeMap<String, Vec<String>> = steps
        .iter()
        .map(|step| {
            let needs = step["needs"].as_array().unwrap().iter();
            let needs = needs.map(|need| need["step"].as_str().unwrap().to_owned());
            (step["name"].as_str().unwrap().to_owned(), needs.collect())
        })
        .collect();
    for step in steps {
        if rng.percent(50) {
            continue;
        }
        let mut after = vec![step["name"].as_str().unwrap().to_owned()];
        for _ in 0..=rng.below(3) {
            let last = after.last().unwrap();
            let next: Vec<&String> =
                needs.iter().filter(|(_, on)| on.contains(last)).map(|(name, _)| name).collect();
            if !next.is_empty() {
                let next = (*rng.pick(&next)).clone();
                after.push(next);
            }
        }
        if after.len() > 1 {
            step["keep"] = json!({ "until": after.last() });
        }
    }
}

fn decorate(rng: &mut Rng, step: &mut Value, binds: &[String]) {
    let mut run = vec!["true".to_owned()];
    run.extend(binds.iter().map(|dim| format!("{{bind.{dim}}}")));
    step["command"] = json!({ "run": run });
    if rng.percent(25) {
        step["limits"] = json!([*rng.pick(&["one", "two"])]);
    }
    if rng.percent(25) {
        step["requires"] = rng
            .pick(&[
                json!({ "labels": ["fast"] }),
                json!({ "gpu": { "vram": "8GiB" } }),
                json!({ "cpus": 8 }),
            ])
            .clone();
    }
    if rng.percent(20) {
        step["retry"] = json!({ "attempts": 1 + rng.below(4), "backoff": "1s" });
    }
}
