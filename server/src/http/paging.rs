//! Lists in pages: the request for a page, the page, and the cursors that lead from one to the next.

use serde::Deserialize;
use serde::de::{Deserializer, Error};
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{RefOr, Required};

/// Which page of a list to return; its cursors are of the type `C`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Paging<C> {
    /// Most items of the page.
    pub(super) limit: Option<usize>,
    /// Cursor of the page: the `next` of the page before.
    pub(super) after: Option<C>,
}

impl<C: utoipa::PartialSchema> IntoParams for Paging<C> {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let parameter = |name: &str, text: &str, schema: RefOr<Schema>| {
            let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Query);
            parameter.required(Required::False).description(Some(text)).schema(Some(schema)).build()
        };
        let limit = ObjectBuilder::new().schema_type(Type::Integer);
        let limit = limit.minimum(Some(1)).maximum(Some(1000)).into();
        vec![
            parameter("limit", "How many items at most: 1 to 1000, 100 if left out.", limit),
            parameter("after", "Where to go on: the `next` of the page before.", C::schema()),
        ]
    }
}

/// A cursor that is the name of the last item on the previous page.
#[derive(Clone, Debug)]
pub(super) struct Name(pub(super) String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        if name.is_empty() {
            return Err(D::Error::custom("`after` is not the `next` of a page: it is empty"));
        }
        Ok(Self(name))
    }
}

impl utoipa::PartialSchema for Name {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).into()
    }
}
