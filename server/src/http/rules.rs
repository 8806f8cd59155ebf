//! Who may call what, and under which name the call is recorded in the audit log: one line for each route. A route that
//! is not in this table is closed to everybody.

use TokenRole::{Admin, Machine, Operator, Submitter, Viewer, Worker};
use pictor_api::TokenRole;

/// The rule of a route.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// HTTP method of the route, such as `GET`.
    pub method: &'static str,
    /// Path of the route as in the `OpenAPI` description.
    pub path: &'static str,
    /// Roles that may call it. A submitter sees and changes only what belongs to its own account, a machine only what
    /// concerns itself.
    pub roles: &'static [TokenRole],
    /// Name in the audit log, for calls that change something. Routine calls of machines are not recorded.
    pub action: Option<&'static str>,
}

const PEOPLE: &[TokenRole] = &[Admin, Operator, Submitter, Viewer];
const SUBMITTERS: &[TokenRole] = &[Admin, Operator, Submitter];
const OPERATORS: &[TokenRole] = &[Admin, Operator];
const ADMINS: &[TokenRole] = &[Admin];
const ENROLLERS: &[TokenRole] = &[Admin, Worker, Machine];
const MACHINES: &[TokenRole] = &[Machine];

const fn see(path: &'static str) -> Rule {
    Rule { method: "GET", path, roles: PEOPLE, action: None }
}

const fn change(
    method: &'static str,
    path: &'static str,
    roles: &'static [TokenRole],
    action: &'static str,
) -> Rule {
    Rule { method, path, roles, action: Some(action) }
}

const fn quiet(method: &'static str, path: &'static str, roles: &'static [TokenRole]) -> Rule {
    Rule { method, path, roles, action: None }
}

/// The rules of all routes.
pub const RULES: &[Rule] = &[
    see("/v1/runs"),
    change("POST", "/v1/runs", SUBMITTERS, "run.submit"),
    see("/v1/runs/{run}"),
    change("PATCH", "/v1/runs/{run}", SUBMITTERS, "run.change"),
    see("/v1/runs/{run}/graph"),
    change("POST", "/v1/runs/{run}/pause", SUBMITTERS, "run.pause"),
    change("POST", "/v1/runs/{run}/resume", SUBMITTERS, "run.resume"),
    change("POST", "/v1/runs/{run}/cancel", SUBMITTERS, "run.cancel"),
    change("POST", "/v1/runs/{run}/retry", SUBMITTERS, "run.retry"),
    change("POST", "/v1/runs/{run}/reset", SUBMITTERS, "run.reset"),
    see("/v1/runs/{run}/tasks"),
    see("/v1/runs/{run}/tasks/{task}"),
    see("/v1/runs/{run}/tasks/{task}/log"),
    see("/v1/runs/{run}/files"),
    see("/v1/runs/{run}/files/{path}"),
    see("/v1/artifacts/{key}"),
    quiet("POST", "/v1/assets/missing", SUBMITTERS),
    change("PUT", "/v1/assets/{digest}", SUBMITTERS, "asset.upload"),
    see("/v1/events"),
    see("/v1/workers"),
    change("POST", "/v1/workers", ENROLLERS, "worker.register"),
    see("/v1/workers/{id}"),
    change("PATCH", "/v1/workers/{id}", OPERATORS, "worker.change"),
    quiet("POST", "/v1/workers/{id}/heartbeat", MACHINES),
    change("POST", "/v1/workers/{id}/left", MACHINES, "worker.left"),
    quiet("POST", "/v1/workers/{id}/inputs", MACHINES),
    quiet("POST", "/v1/workers/{id}/outputs", MACHINES),
    quiet("GET", "/v1/workers/{id}/artifacts/{key}", MACHINES),
    quiet("PUT", "/v1/workers/{id}/artifacts/{key}", MACHINES),
    quiet("GET", "/v1/workers/{id}/assets/{digest}", MACHINES),
    quiet("PUT", "/v1/workers/{id}/logs/{run}/{step}/{index}/{execution}", MACHINES),
    see("/v1/schedules"),
    change("POST", "/v1/schedules", SUBMITTERS, "schedule.add"),
    see("/v1/schedules/{id}"),
    change("PUT", "/v1/schedules/{id}", SUBMITTERS, "schedule.put"),
    change("DELETE", "/v1/schedules/{id}", SUBMITTERS, "schedule.remove"),
    change("POST", "/v1/schedules/{id}/pause", SUBMITTERS, "schedule.pause"),
    change("POST", "/v1/schedules/{id}/resume", SUBMITTERS, "schedule.resume"),
    change("POST", "/v1/schedules/{id}/trigger", SUBMITTERS, "schedule.trigger"),
    quiet("GET", "/v1/webhooks", OPERATORS),
    quiet("GET", "/v1/tokens", ADMINS),
    change("POST", "/v1/tokens", ADMINS, "token.add"),
    change("DELETE", "/v1/tokens/{id}", ADMINS, "token.revoke"),
    quiet("GET", "/v1/audit", OPERATORS),
];

/// The rule of a route, whose path may have the star that allows slashes or not.
pub fn rule(method: &str, path: &str) -> Option<&'static Rule> {
    let method = if method == "HEAD" { "GET" } else { method };
    let path = path.replace("{*", "{");
    RULES.iter().find(|rule| rule.method == method && rule.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_by_people_is_audited_and_no_route_is_there_twice() {
        for (i, rule) in RULES.iter().enumerate() {
            let same = |other: &&Rule| (other.method, other.path) == (rule.method, rule.path);
            assert_eq!(RULES[i + 1..].iter().find(same).map(|r| r.path), None);
            let asks = rule.method == "GET" || rule.path == "/v1/assets/missing";
            let machine = rule.roles == MACHINES;
            assert!(rule.action.is_some() || asks || machine, "{} {}", rule.method, rule.path);
        }
    }

    #[test]
    fn admins_may_do_all_that_people_may_and_operators_all_but_tokens() {
        for rule in RULES.iter().filter(|rule| rule.roles != MACHINES) {
            assert!(rule.roles.contains(&Admin), "{}", rule.path);
            let closed = rule.path.starts_with("/v1/tokens") || rule.roles == ENROLLERS;
            assert_eq!(rule.roles.contains(&Operator), !closed, "{}", rule.path);
        }
    }
}
