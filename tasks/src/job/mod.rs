//! The job file: parses YAML to a [`JobSpec`], and reports all mistakes of a file at once, with their positions.
//!
//! **Invariant:** the types in [`spec`] are the only definition of the language. The JSON Schema is derived from them,
//! files are validated against that schema, and every file that is valid can be deserialised.

mod changes;
mod check;
mod diagnostic;
pub(crate) mod formats;
mod overrides;
mod path;
mod rules;
mod shorthand;
pub mod spec;
mod tree;

pub use changes::{CHANGEABLE, changes};
pub use diagnostic::{Diagnostic, Invalid, Source, SourceMap, nearest};
pub use formats::check_word;
pub use path::{field, item};

use diagnostic::Problems;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};
use spec::JobSpec;
use std::sync::LazyLock;

/// A job spec that was parsed without mistakes.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The job itself.
    pub spec: JobSpec,
    /// The positions of its parts, for mistakes that are found later.
    pub source_map: SourceMap,
}

/// Parses a job file. Each override is a path into the file (`render.samples`, `steps.NAME.over`) and a YAML value that
/// replaces the one there.
pub fn parse(source: &Source, overrides: &[(String, String)]) -> Result<Parsed, Invalid> {
    static SCHEMA: LazyLock<Value> = LazyLock::new(schema);
    let mut problems = Problems::default();
    let Some(mut root) = tree::read(&source.text, None, &mut problems) else {
        return Err(problems.into());
    };
    overrides::apply(&mut root, overrides, &mut problems);
    check::check(&root, &SCHEMA, &mut problems);
    rules::check(&root, &mut problems);
    if problems.is_empty() {
        match serde_json::from_value(root.to_json()) {
            Ok(spec) => {
                return Ok(Parsed { spec, source_map: SourceMap::new(root) });
            }
            Err(error) => problems.push("", error.to_string(), None, Some(&root.location)),
        }
    }
    Err(problems.into())
}

/// The JSON Schema of the job file.
pub fn schema() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<JobSpec>().to_value();
    tighten(&mut schema);
    schema["title"] = json!("pictor job");
    schema
}

/// Adds to the schema what serde leaves open: a field is omitted rather than null, numbers fit their types, and texts
/// have a maximum length.
fn tighten(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(tighten),
        Value::Object(object) => {
            object.values_mut().for_each(tighten);
            if let Some(Value::String(text)) = object.get_mut("description") {
                *text = text.replace('\n', " ");
            }
            forbid_null(object);
            bound_numbers(object);
            let is_text = object.get("type").is_some_and(|name| name == "string");
            let has_limit =
                ["enum", "const", "maxLength"].iter().any(|key| object.contains_key(*key));
            if is_text && !has_limit {
                object.insert("maxLength".to_owned(), json!(check::CHARACTERS_MAX));
            }
        }
        _ => {}
    }
}

fn forbid_null(object: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(choices)) = object.get_mut("enum") {
        choices.retain(|choice| !choice.is_null());
    }
    if object.get("default").is_some_and(Value::is_null) {
        object.remove("default");
    }
    if let Some(Value::Array(forms)) = object.get_mut("anyOf") {
        forms.retain(|form| form["type"] != "null");
        if let [Value::Object(only)] = forms.as_slice() {
            let only = only.clone();
            object.remove("anyOf");
            for (key, value) in only {
                object.entry(key).or_insert(value);
            }
        }
    }
}

fn bound_numbers(object: &mut Map<String, Value>) {
    let (min, max) = match object.get("format").and_then(Value::as_str) {
        Some("uint8") => (json!(0), json!(u8::MAX)),
        Some("uint32") => (json!(0), json!(u32::MAX)),
        Some("int32") => (json!(i32::MIN), json!(i32::MAX)),
        Some("double") => {
            object.remove("format");
            return;
        }
        _ => return,
    };
    object.remove("format");
    object.entry("minimum").or_insert(min);
    object.entry("maximum").or_insert(max);
}
