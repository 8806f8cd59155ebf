//! Templates of the job file, resolved for a task: values of its dimensions, paths of its inputs and outputs.

use super::command;
use crate::ground::failure::failure;
use crate::ground::text_of;
use crate::task::TaskContext;
use pictor_tasks::body::Body;
use pictor_tasks::message::{Failure, FailureKind, Input};
use pictor_tasks::output::in_folder;
use pictor_tasks::space::Value;
use pictor_tasks::template::{Placeholder, Template, pad};
use std::collections::HashMap;
use std::path::PathBuf;

impl TaskContext {
    /// Resolves a template of the job file.
    pub async fn resolve(&self, text: &str) -> Result<String, Failure> {
        let invalid = |why: String| failure(FailureKind::Invalid, format!("`{text}`: {why}"));
        let template = Template::parse(text).map_err(|error| invalid(error.to_string()))?;
        let mut values = HashMap::new();
        for placeholder in template.placeholders() {
            if !values.contains_key(placeholder) {
                let value = self.placeholder(placeholder).await?;
                values.insert(placeholder.clone(), value);
            }
        }
        let found = &mut |p: &Placeholder| values.get(p).cloned().ok_or_else(String::new);
        template.render(found).map_err(invalid)
    }

    async fn placeholder(&self, placeholder: &Placeholder) -> Result<String, Failure> {
        let index = self.task.index;
        let value = match placeholder {
            Placeholder::Value { name, width } => {
                self.brief.space.value(index, name).map(|v| pad(&v, *width))
            }
            Placeholder::First { name, width } => self.ends(name).map(|ends| pad(&ends.0, *width)),
            Placeholder::Last { name, width } => self.ends(name).map(|ends| pad(&ends.1, *width)),
            Placeholder::Index { width } => Some(pad(&Value::Int(index.into()), *width)),
            Placeholder::Attempt => Some(self.task.attempt.to_string()),
            Placeholder::JobDir => Some(self.job_folder()?),
            Placeholder::Scratch => Some(text_of(&self.scratch)?),
            Placeholder::Input { step, output } => {
                return text_of(&self.only_input(step, output.as_deref()).await?);
            }
            Placeholder::Inputs { step } => {
                return text_of(&command::inputs_folder(self, step).await?);
            }
            Placeholder::Output { name } => {
                command::output_path(self, name).map(|path| text_of(&path)).transpose()?
            }
            Placeholder::Bind { dim } => {
                let ours = self.brief.binds.contains(dim);
                ours.then(|| text_of(&command::bind_path(self, dim))).transpose()?
            }
        };
        value.ok_or_else(|| {
            let (name, step) = (format!("{placeholder:?}"), &self.brief.step);
            failure(FailureKind::Invalid, format!("The step `{step}` has no such thing: {name}."))
        })
    }

    /// The folder with the files of the command; if it has none, that of the job file, where there is one.
    fn job_folder(&self) -> Result<String, Failure> {
        if matches!(&self.brief.body, Body::Command(body) if !body.files.is_empty()) {
            return text_of(&command::files::folder(self));
        }
        if self.brief.folder.is_empty() {
            let message = "There is no folder of the job file on a server: name what the command needs in \
                           `files`, and `{job.dir}` is the folder that holds it.";
            return Err(failure(FailureKind::Invalid, message));
        }
        Ok(self.brief.folder.clone())
    }

    fn ends(&self, name: &str) -> Option<(Value, Value)> {
        let space = &self.brief.space;
        let axis = space.axes.iter().position(|axis| axis.name == name)?;
        space.axes[axis].values.ends(space.position(self.task.index, axis))
    }

    /// The folder output with that name, or, without a name, the one that is all that the step produced; `None` if
    /// there is no such folder.
    async fn only_folder(
        &self,
        step: &str,
        output: Option<&str>,
    ) -> Result<Option<PathBuf>, Failure> {
        let inputs: Vec<&Input> = self.inputs_of(step, None).collect();
        let named = |input: &&Input| output.is_none_or(|output| input.output.name == output);
        let plain = |input: &Input| in_folder(&input.output.name).is_none();
        if inputs.iter().any(|input| named(input) && plain(input)) {
            return Ok(None);
        }
        let folder =
            |input: &Input| in_folder(&input.output.name).map(|(folder, _)| folder.to_owned());
        let first = inputs.iter().find_map(|input| {
            folder(input).filter(|folder| output.is_none_or(|output| output == folder))
        });
        let Some(name) = first else { return Ok(None) };
        let inside: Vec<&Input> =
            inputs.iter().filter(|input| folder(input).as_ref() == Some(&name)).copied().collect();
        let one_task = inside.iter().all(|input| input.index == inside[0].index);
        let only = output.is_some() || inside.len() == inputs.len();
        if one_task && only {
            return command::input_folder(self, step, &name, &inside).await.map(Some);
        }
        let message = format!(
            "`{{input.{step}}}` stands for one file or folder, and there are several. Use `{{inputs.{step}}}`, \
             the folder that holds them all, or name the output."
        );
        Err(failure(FailureKind::Invalid, message))
    }

    async fn only_input(&self, step: &str, output: Option<&str>) -> Result<PathBuf, Failure> {
        if let Some(folder) = self.only_folder(step, output).await? {
            return Ok(folder);
        }
        // Files from folder outputs are only meant when they are named.
        let plain = |input: &&Input| output.is_some() || in_folder(&input.output.name).is_none();
        let mut found = self.inputs_of(step, output).filter(plain);
        let what = output.map_or_else(|| step.to_owned(), |output| format!("{step}.{output}"));
        match (found.next(), found.count()) {
            (Some(input), 0) => self.input_path(input).await,
            (None, _) => {
                let message =
                    format!("There is no input `{what}`: that step left nothing by that name.");
                Err(failure(FailureKind::Invalid, message))
            }
            (Some(_), more) => Err(failure(
                FailureKind::Invalid,
                format!(
                    "`{{input.{what}}}` stands for one file, and there are {}. Use `{{inputs.{step}}}`, \
                     the folder that holds them all, or name the output.",
                    more + 1
                ),
            )),
        }
    }
}
