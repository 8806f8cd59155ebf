//! Texts with placeholders such as `{frame:04}` or `{input.render}`, parsed once and filled in for each task. `{{` and
//! `}}` are literal braces.

use crate::space::Value;
use std::str::FromStr;

/// First parts of placeholders that do not name a dimension.
const RESERVED: [&str; 5] = ["job", "input", "inputs", "output", "bind"];
/// The largest width for padding, in digits.
const WIDTH_MAX: u8 = 20;

/// Names that a dimension cannot have, because they have another meaning in placeholders.
pub const RESERVED_NAMES: [&str; 8] =
    ["index", "attempt", "scratch", "job", "input", "inputs", "output", "bind"];

/// The value that a placeholder stands for. A `width` of 0 means no padding.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Placeholder {
    /// `{frame}`, `{frame:04}`: the task's value of a dimension.
    Value {
        /// The name of the dimension.
        name: String,
        /// The number of digits to which numbers are padded with zeros.
        width: u8,
    },
    /// `{segment.first}`: the first value of the task's block.
    First {
        /// The name of the dimension.
        name: String,
        /// The number of digits to which numbers are padded with zeros.
        width: u8,
    },
    /// `{segment.last}`: the last value of the task's block.
    Last {
        /// The name of the dimension.
        name: String,
        /// The number of digits to which numbers are padded with zeros.
        width: u8,
    },
    /// `{index}`: the task's index in its step.
    Index {
        /// The number of digits to which it is padded with zeros.
        width: u8,
    },
    /// `{attempt}`: the number of the attempt, from 1.
    Attempt,
    /// `{job.dir}`: the folder of the job file.
    JobDir,
    /// `{scratch}`: the task's own folder.
    Scratch,
    /// `{input.STEP}`, `{input.STEP.OUTPUT}`: the path of the only input from a step.
    Input {
        /// The name of the step that made it.
        step: String,
        /// The name of the output; `None` for the only one.
        output: Option<String>,
    },
    /// `{inputs.STEP}`: the folder that holds all inputs from a step.
    Inputs {
        /// The name of the step that made them.
        step: String,
    },
    /// `{output.NAME}`: the path to write an output to.
    Output {
        /// The name of the output.
        name: String,
    },
    /// `{bind.DIM}`: the path to write the values of a late-bound dimension to.
    Bind {
        /// The name of the dimension.
        dim: String,
    },
}

/// Why a text is not a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A brace without its counterpart.
    #[error("`{0}` without its other half: write `{0}{0}` for a brace")]
    Brace(char),
    /// Something in braces that is not a placeholder.
    #[error("`{{{0}}}` is not a placeholder: write `{{{{` and `}}}}` for braces")]
    Malformed(String),
    /// A reserved first part, followed by something that is not defined for it.
    #[error("`{{{0}}}` is not a placeholder: expected {1}")]
    Unknown(String, &'static str),
    /// A width that is not `:0N`.
    #[error("`{{{0}}}`: expected a width such as `:04`, at most `:020`")]
    Width(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Placeholder(Placeholder),
}

/// A text with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
}

impl Template {
    /// Parses a template.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let (mut pieces, mut literal, mut rest) = (Vec::new(), String::new(), text);
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let brace = if rest[at..].starts_with('{') { '{' } else { '}' };
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                literal.push(brace);
                rest = after;
                continue;
            }
            let end = rest.find(['{', '}']).filter(|end| rest[*end..].starts_with('}'));
            let (Some(end), '{') = (end, brace) else {
                return Err(TemplateError::Brace(brace));
            };
            if !literal.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut literal)));
            }
            pieces.push(Piece::Placeholder(rest[..end].parse()?));
            rest = &rest[end + 1..];
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal));
        }
        Ok(Self { pieces })
    }

    /// All placeholders in order, including repeated ones.
    pub fn placeholders(&self) -> impl Iterator<Item = &Placeholder> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Placeholder(placeholder) => Some(placeholder),
            Piece::Text(_) => None,
        })
    }

    /// Fills in the placeholders. Fails at the first one for which `resolve` fails.
    pub fn render(
        &self,
        resolve: &mut impl FnMut(&Placeholder) -> Result<String, String>,
    ) -> Result<String, String> {
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(literal) => text.push_str(literal),
                Piece::Placeholder(placeholder) => text.push_str(&resolve(placeholder)?),
            }
        }
        Ok(text)
    }

    /// The fixed texts between the placeholders.
    pub(crate) fn literals(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Text(literal) => Some(literal.as_str()),
            Piece::Placeholder(_) => None,
        })
    }
}

impl FromStr for Placeholder {
    type Err = TemplateError;

    /// Parses the text between the braces.
    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let (name, width) = match text.split_once(':') {
            Some((name, width)) => (name, parse_width(width, text)?),
            None => (text, 0),
        };
        let parts: Vec<&str> = name.split('.').collect();
        if !parts.iter().copied().all(is_word) {
            return Err(TemplateError::Malformed(text.to_owned()));
        }
        if RESERVED.contains(&parts[0]) || matches!(name, "attempt" | "scratch") {
            let special = special(&parts, text)?;
            let padded = text.contains(':');
            return if padded { Err(TemplateError::Width(text.to_owned())) } else { Ok(special) };
        }
        if name == "index" {
            return Ok(Self::Index { width });
        }
        Ok(match parts.split_last() {
            Some((&"first", [_, ..])) => Self::First { name: name[..name.len() - 6].into(), width },
            Some((&"last", [_, ..])) => Self::Last { name: name[..name.len() - 5].into(), width },
            _ => Self::Value { name: name.to_owned(), width },
        })
    }
}

fn special(parts: &[&str], text: &str) -> Result<Placeholder, TemplateError> {
    let unknown = |expected| Err(TemplateError::Unknown(text.to_owned(), expected));
    Ok(match *parts {
        ["attempt"] => Placeholder::Attempt,
        ["scratch"] => Placeholder::Scratch,
        ["job", "dir"] => Placeholder::JobDir,
        ["input", step] => Placeholder::Input { step: step.into(), output: None },
        ["input", step, output] => {
            Placeholder::Input { step: step.into(), output: Some(output.into()) }
        }
        ["inputs", step] => Placeholder::Inputs { step: step.into() },
        ["output", name] => Placeholder::Output { name: name.into() },
        ["bind", _, ..] => Placeholder::Bind { dim: parts[1..].join(".") },
        ["job", ..] => return unknown("`{job.dir}`"),
        ["input", ..] => return unknown("`{input.STEP}` or `{input.STEP.OUTPUT}`"),
        ["inputs", ..] => return unknown("`{inputs.STEP}`"),
        ["output", ..] => return unknown("`{output.NAME}`"),
        _ => return unknown("`{bind.DIMENSION}`"),
    })
}

fn is_word(part: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    part.starts_with(|first: char| first.is_ascii_alphabetic()) && part.bytes().all(inner)
}

fn parse_width(width: &str, text: &str) -> Result<u8, TemplateError> {
    let digits =
        width.strip_prefix('0').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    digits
        .and_then(|digits| digits.parse().ok())
        .filter(|width| (1..=WIDTH_MAX).contains(width))
        .ok_or_else(|| TemplateError::Width(text.to_owned()))
}

/// Formats a value for a placeholder of this width: numbers are padded with zeros, where the sign of a negative one
/// counts and comes first. The same goes for words of digits, whose own zeros are kept; all other words are left
/// unchanged.
pub fn pad(value: &Value, width: u8) -> String {
    let (text, width) = (value.to_string(), usize::from(width));
    if value.number().is_none() || text.len() >= width {
        return text;
    }
    let (sign, digits) = text.split_at(usize::from(text.starts_with('-')));
    format!("{sign}{digits:0>width$}", width = width - sign.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn only(text: &str) -> Placeholder {
        let template = Template::parse(text).unwrap();
        let mut all = template.placeholders();
        let first = all.next().unwrap().clone();
        assert_eq!(all.next(), None);
        first
    }

    #[test]
    fn dimensions_may_be_padded_and_may_hold_a_dot() {
        let name = |text: &str| text.to_owned();
        for (text, expected) in [
            ("{frame}", Placeholder::Value { name: name("frame"), width: 0 }),
            ("{frame:04}", Placeholder::Value { name: name("frame"), width: 4 }),
            ("a{render.tile}b", Placeholder::Value { name: name("render.tile"), width: 0 }),
            ("{frame.first:03}", Placeholder::First { name: name("frame"), width: 3 }),
            ("{render.tile.last}", Placeholder::Last { name: name("render.tile"), width: 0 }),
            ("{index:06}", Placeholder::Index { width: 6 }),
        ] {
            assert_eq!(only(text), expected, "{text}");
        }
    }

    #[test]
    fn reserved_words_ask_for_paths() {
        let (step, output) = ("render".to_owned(), Some("image".to_owned()));
        for (text, expected) in [
            ("{attempt}", Placeholder::Attempt),
            ("{job.dir}/x", Placeholder::JobDir),
            ("{scratch}", Placeholder::Scratch),
            ("{input.render}", Placeholder::Input { step: step.clone(), output: None }),
            ("{input.render.image}", Placeholder::Input { step: step.clone(), output }),
            ("{inputs.render}", Placeholder::Inputs { step }),
            ("{output.log}", Placeholder::Output { name: "log".into() }),
            ("{bind.render.tile}", Placeholder::Bind { dim: "render.tile".into() }),
        ] {
            assert_eq!(only(text), expected, "{text}");
        }
    }

    #[test]
    fn a_template_is_filled_in_and_double_braces_become_single() {
        let template = Template::parse("{{{frame:05}}}-{look}.png").unwrap();
        let text = template.render(&mut |placeholder| match placeholder {
            Placeholder::Value { name, width } if name == "frame" => {
                Ok(pad(&Value::Int(-7), *width))
            }
            Placeholder::Value { .. } => Ok("{frame}".into()),
            other => Err(format!("{other:?}")),
        });
        assert_eq!(text.unwrap(), "{-0007}-{frame}.png");
        let refused = Template::parse("{attempt}").unwrap().render(&mut |_| Err("no".into()));
        assert_eq!(refused, Err("no".to_owned()));
    }

    #[test]
    fn words_of_digits_are_padded_like_numbers_and_keep_their_own_zeros() {
        let word = |text: &str| Value::Name(text.to_owned());
        for (value, width, padded) in [
            (word("7"), 3, "007"),
            (word("-7"), 4, "-007"),
            (word("0010"), 3, "0010"),
            (word("0010"), 6, "000010"),
            (word("30A"), 6, "30A"),
            (word("+7"), 3, "+7"),
            (word("1-3"), 6, "1-3"),
            (word("-"), 3, "-"),
            (Value::Int(7), 0, "7"),
        ] {
            assert_eq!(pad(&value, width), padded, "{value:?}");
        }
    }

    #[test]
    fn errors_say_what_was_expected() {
        for (text, error) in [
            ("{frame", "`{` without its other half: write `{{` for a brace"),
            ("frame}", "`}` without its other half: write `}}` for a brace"),
            ("{print $1}", "`{print $1}` is not a placeholder: write `{{` and `}}` for braces"),
            ("{}", "`{}` is not a placeholder: write `{{` and `}}` for braces"),
            ("{job.name}", "`{job.name}` is not a placeholder: expected `{job.dir}`"),
            ("{output}", "`{output}` is not a placeholder: expected `{output.NAME}`"),
            ("{frame:4}", "`{frame:4}`: expected a width such as `:04`, at most `:020`"),
            ("{frame:099}", "`{frame:099}`: expected a width such as `:04`, at most `:020`"),
            ("{attempt:02}", "`{attempt:02}`: expected a width such as `:04`, at most `:020`"),
        ] {
            assert_eq!(Template::parse(text).unwrap_err().to_string(), error);
        }
    }

    proptest! {
        #[test]
        fn text_with_doubled_braces_comes_back_as_it_was(text in "\\PC{0,40}") {
            let escaped = text.replace('{', "{{").replace('}', "}}");
            let template = Template::parse(&escaped).unwrap();
            prop_assert_eq!(template.placeholders().count(), 0);
            prop_assert_eq!(template.render(&mut |_| Err(String::new())).unwrap(), text);
        }

        #[test]
        fn a_number_and_its_text_are_padded_alike(number in -99_999_i64..99_999, width in 0_u8..9) {
            let text = Value::Name(number.to_string());
            prop_assert_eq!(pad(&text, width), pad(&Value::Int(number), width));
        }

        #[test]
        fn no_text_makes_a_template_panic(text in "[{}a-z.:0-9é]{0,40}") {
            let _ = Template::parse(&text);
        }
    }
}
