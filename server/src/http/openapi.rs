//! The `OpenAPI` description, generated from the code, and a page to browse it.

use super::rules::rule;
use axum::http::header;
use axum::response::{Html, IntoResponse};
use pictor_api::Problem;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::schema::{Schema, SchemaType, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, Info, License, OpenApi, OpenApiBuilder, PathItem, Ref, RefOr, ResponseBuilder,
    Tag,
};
use utoipa::openapi::{path::Operation, security::SecurityRequirement};

const DESCRIPTION: &str = "\
Runs, tasks, workers and schedules of a pictor farm.

Requests need the header `Authorization: Bearer pictor_…`. Errors are `application/problem+json` with a \
stable `code`. Lists come in pages: give the `next` of a page as `after` to get the one that follows. \
Times are milliseconds since 1970.";

const TAGS: [(&str, &str); 10] = [
    ("runs", "Submit, watch and control runs."),
    ("tasks", "Tasks of a run, their attempts and logs."),
    ("files", "Results, and the files that jobs need."),
    ("events", "What happens, as it happens."),
    ("workers", "The machines of the farm."),
    ("schedules", "Jobs that are submitted at times."),
    ("webhooks", "Who is told what happens."),
    ("tokens", "Who may do what, and who did."),
    ("machines", "What workers say to the server."),
    ("server", "Whether the server is well."),
];

/// An empty description, to which routes add themselves.
pub(super) fn begin() -> OpenApi {
    let mut info = Info::new("pictor", env!("CARGO_PKG_VERSION"));
    info.description = Some(DESCRIPTION.to_owned());
    info.license = Some(License::new(env!("CARGO_PKG_LICENSE")));
    let tag = |(name, text): (&str, &str)| {
        let mut tag = Tag::new(name);
        tag.description = Some(text.to_owned());
        tag
    };
    OpenApiBuilder::new().info(info).tags(Some(TAGS.map(tag))).build()
}

/// Adds what all routes have in common: errors, security, and who may call them.
pub(super) fn finish(api: &mut OpenApi) {
    let components = api.components.get_or_insert_with(Default::default);
    let mut schemas = Vec::new();
    Problem::schemas(&mut schemas);
    let problem = <Problem as utoipa::PartialSchema>::schema();
    components.schemas.extend(schemas);
    components.schemas.insert(Problem::name().into_owned(), problem);
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    components.add_security_scheme("token", bearer);
    let paths = std::mem::take(&mut api.paths.paths);
    for (path, mut item) in paths {
        // To the router a star means that a parameter may contain slashes; OpenAPI has no such notation.
        let path = path.replace("{*", "{");
        for (method, operation) in operations(&mut item) {
            complete(operation, method, &path);
        }
        api.paths.paths.insert(path, item);
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    let all = [
        ("GET", item.get.as_mut()),
        ("PUT", item.put.as_mut()),
        ("POST", item.post.as_mut()),
        ("DELETE", item.delete.as_mut()),
        ("PATCH", item.patch.as_mut()),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation?)))
}

fn complete(operation: &mut Operation, method: &str, path: &str) {
    // Functions have short names, and two files may use the same one.
    if let (Some(name), Some([tag])) = (&mut operation.operation_id, operation.tags.as_deref()) {
        *name = format!("{tag}_{name}");
    }
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(parameter) = parameter {
            parameter.schema.iter_mut().for_each(without_null);
        }
    }
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(Problem::name())));
    let problem = ResponseBuilder::new()
        .description("What went wrong")
        .content(super::refusal::PROBLEM_JSON, content.build());
    operation.responses.responses.insert("default".to_owned(), problem.build().into());
    let Some(rule) = rule(method, path) else { return };
    let roles: Vec<&str> = rule.roles.iter().map(|role| role.name()).collect();
    let roles = format!("For tokens with the role: {}.", roles.join(", "));
    let text = operation.description.get_or_insert_default();
    if !text.is_empty() {
        text.push_str("\n\n");
    }
    text.push_str(&roles);
    operation.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
}

/// Removes null from the schema of a parameter: it can be absent, but not null.
fn without_null(schema: &mut RefOr<Schema>) {
    match schema {
        RefOr::T(Schema::Object(object)) => {
            if let SchemaType::Array(types) = &mut object.schema_type {
                types.retain(|kind| *kind != Type::Null);
                if let [only] = types.as_slice() {
                    object.schema_type = SchemaType::Type(only.clone());
                }
            }
        }
        RefOr::T(Schema::OneOf(choice)) => {
            let null = |item: &RefOr<Schema>| {
                matches!(item, RefOr::T(Schema::Object(object))
                    if object.schema_type == SchemaType::Type(Type::Null))
            };
            choice.items.retain(|item| !null(item));
            if let [only] = choice.items.as_slice() {
                *schema = only.clone();
            }
        }
        _ => {}
    }
}

/// The registered name of a number format, with its least and greatest value.
fn range(format: &str, least: Option<&Value>) -> Option<(&'static str, Value, Value)> {
    let natural = least.is_some_and(|least| least == 0);
    Some(match (format, natural) {
        ("int32", true) => ("uint32", 0.into(), u32::MAX.into()),
        ("int64", true) => ("uint64", 0.into(), u64::MAX.into()),
        ("int32", false) => ("int32", i32::MIN.into(), i32::MAX.into()),
        ("int64", false) => ("int64", i64::MIN.into(), i64::MAX.into()),
        _ => return None,
    })
}

/// Adds its range to the schema of every whole number.
pub(super) fn with_ranges(description: Value) -> Value {
    match description {
        Value::Object(mut fields) => {
            let format = fields.get("format").and_then(Value::as_str);
            let range = format.and_then(|format| range(format, fields.get("minimum")));
            if let Some((format, least, most)) = range {
                fields.insert("format".to_owned(), format.into());
                fields.entry("minimum").or_insert(least);
                fields.entry("maximum").or_insert(most);
            }
            fields.into_iter().map(|(name, value)| (name, with_ranges(value))).collect()
        }
        Value::Array(items) => items.into_iter().map(with_ranges).collect(),
        other => other,
    }
}

/// The page to browse the description. It loads nothing from other servers.
pub(super) async fn docs() -> impl IntoResponse {
    let policy = "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; \
                  script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(include_str!("docs.html")))
}
