//! The short forms of some parts of a job file, which serde cannot derive.

use super::formats::{StepName, Word};
use super::spec::{DimSpec, Frames, NeedOn, NeedSpec, Pixels, Preview, TilesSpec};
use crate::body::PictureFormat;
use crate::range::{NUMBER_MAX, Ranges};
use crate::units::{Grid, Text};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use serde_json::{Value, json};
use std::{borrow::Cow, collections::BTreeMap};

/// Deserializes the dimensions, each as a map or in short form: `frame: 1-48`, `look: [matte, glossy]`.
pub(super) fn dims<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, DimSpec>, D::Error> {
    let forms = BTreeMap::<String, Value>::deserialize(deserializer)?;
    forms
        .into_iter()
        .map(|(name, form)| dim(form).map(|dim| (name, dim)))
        .collect::<Result<_, _>>()
        .map_err(D::Error::custom)
}

fn dim(form: Value) -> Result<DimSpec, serde_json::Error> {
    let field = match &form {
        Value::Object(_) => return serde_json::from_value(form),
        Value::Array(items) if items.iter().any(Value::is_string) => "values",
        _ => "range",
    };
    let form = match form {
        Value::Array(items) if field == "range" => {
            let numbers: Vec<i64> = serde_json::from_value(items.into())?;
            serde_json::to_value(Ranges::from_values(&numbers).map_err(Error::custom)?)?
        }
        form => form,
    };
    serde_json::from_value(json!({ field: form }))
}

/// The schema of ranges whose numbers are values of a dimension.
pub(super) fn range_schema(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = Ranges::json_schema(generator);
    schema.insert("format".to_owned(), json!("pictor-range-values"));
    schema
}

/// The JSON Schema of what [`dims`] accepts.
pub(super) fn dims_schema(generator: &mut SchemaGenerator) -> Schema {
    let (ranges, map) = (range_schema(generator), generator.subschema_for::<DimSpec>());
    let word = Word::json_schema(generator);
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "propertyNames": { "format": "pictor-dimension" },
        "additionalProperties": { "anyOf": [
            ranges,
            {
                "type": "array",
                "items": word,
                "minItems": 1,
                "maxItems": 4096,
                "uniqueItems": true,
            },
            {
                "type": "array",
                "items": {
                    "type": "integer",
                    "format": "pictor-number-value",
                    "minimum": -NUMBER_MAX,
                    "maximum": NUMBER_MAX,
                },
                "minItems": 1,
                "maxItems": 4096,
                "uniqueItems": true,
            },
            map,
        ] },
    })
}

/// The long form of a need.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Need {
    /// The step that is needed.
    #[schemars(with = "StepName")]
    step: String,
    /// For a dimension that both steps share: how many positions away the needed task is.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("propertyNames" = json!({ "format": "pictor-dimension" })))]
    offset: BTreeMap<String, i32>,
    /// Whether the needed tasks must succeed, or only have ended.
    #[serde(default, skip_serializing_if = "is_success")]
    on: NeedOn,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_success(on: &NeedOn) -> bool {
    *on == NeedOn::Success
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum NeedForm {
    Name(String),
    Map(Need),
}

impl Serialize for NeedSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { step, offset, on } = self.clone();
        let form = match on {
            NeedOn::Success if offset.is_empty() => NeedForm::Name(step),
            _ => NeedForm::Map(Need { step, offset, on }),
        };
        form.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for NeedSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match NeedForm::deserialize(deserializer)? {
            NeedForm::Name(step) => Self { step, offset: BTreeMap::new(), on: NeedOn::Success },
            NeedForm::Map(Need { step, offset, on }) => Self { step, offset, on },
        })
    }
}

impl JsonSchema for NeedSpec {
    fn schema_name() -> Cow<'static, str> {
        "Need".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = Need::json_schema(generator);
        json_schema!({ "anyOf": [{ "type": "string", "format": "pictor-step" }, map] })
    }
}

impl Serialize for Frames {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Scene => serializer.serialize_str("scene"),
            Self::Ranges(ranges) => ranges.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Frames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Text(text) = Text::deserialize(deserializer)?;
        match text.as_str() {
            "scene" => Ok(Self::Scene),
            ranges => ranges.parse().map(Self::Ranges).map_err(Error::custom),
        }
    }
}

impl JsonSchema for Frames {
    fn schema_name() -> Cow<'static, str> {
        "Frames".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "format": "pictor-frames",
            "description": "The frames as ranges, or `scene` for the scene's own.",
            "examples": ["1-10", "1-100x5", "3,7,9-12", "scene"],
        })
    }
}

impl Serialize for TilesSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Grid(grid) => grid.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for TilesSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "auto" => Ok(Self::Auto),
            grid => grid.parse::<Grid>().map(Self::Grid).map_err(Error::custom),
        }
    }
}

impl JsonSchema for TilesSpec {
    fn schema_name() -> Cow<'static, str> {
        "Tiles".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "pictor-tiles",
            "description": "Columns and rows of tiles, each 1 to 256, or `auto`.",
            "examples": ["2x2", "auto"],
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum PreviewForm {
    Switch(bool),
    Format(PictureFormat),
}

impl Serialize for Preview {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let form = match self {
            Self::Off => PreviewForm::Switch(false),
            Self::On(format) => PreviewForm::Format(*format),
        };
        form.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Preview {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match PreviewForm::deserialize(deserializer)? {
            PreviewForm::Switch(false) => Ok(Self::Off),
            PreviewForm::Switch(true) => Err(Error::custom("expected a format or `false`")),
            PreviewForm::Format(format) => Ok(Self::On(format)),
        }
    }
}

impl JsonSchema for Preview {
    fn schema_name() -> Cow<'static, str> {
        "Preview".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": [false, "png", "jpeg", "tiff"] })
    }
}

impl Serialize for Pixels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Exactly(pixels) => serializer.serialize_u32(*pixels),
        }
    }
}

impl<'de> Deserialize<'de> for Pixels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Text(text) = Text::deserialize(deserializer)?;
        match text.as_str() {
            "auto" => Ok(Self::Auto),
            pixels => pixels.parse().map(Self::Exactly).map_err(Error::custom),
        }
    }
}
