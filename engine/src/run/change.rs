//! Changes to the settings of an existing run. They affect neither which tasks exist nor the results of tasks that have
//! succeeded.

use super::Run;
use crate::plan::Plan;
use pictor_tasks::body::{Body, OnError};
use pictor_tasks::history::Changes;
use std::sync::Arc;

impl Run {
    /// Changes settings: from now on the plan is the same as if the job had set these values.
    pub(crate) fn change(&mut self, changes: &Changes) {
        Arc::make_mut(&mut self.plan).change(changes);
        self.priority = changes.priority.unwrap_or(self.priority);
        self.reset(&changes.reset);
    }

    /// A message if these settings have no meaning in this run.
    pub fn lacks_settings(&self, changes: &Changes) -> Option<String> {
        let upscales = |body: &Body| matches!(body, Body::Upscale(_) | Body::Stitch(_));
        let none = !self.plan.steps.iter().any(|step| upscales(&step.body));
        (changes.on_error.is_some() && none)
            .then(|| format!("run {} upscales nothing, so it has no `upscale.on_error`", self.id))
    }
}

impl Plan {
    fn change(&mut self, changes: &Changes) {
        self.on_failure = changes.on_failure.unwrap_or(self.on_failure);
        self.max_failures = changes.max_failures.or(self.max_failures);
        let stitches =
            |plan: &Self, step: u16| matches!(plan.steps[step as usize].body, Body::Stitch(_));
        for number in 0..self.steps.len() {
            let of_stitch = self.steps[number].needs.iter().any(|need| stitches(self, need.step));
            let step = &mut self.steps[number];
            step.retry.attempts = changes.attempts.unwrap_or(step.retry.attempts);
            step.retry.backoff = changes.backoff.unwrap_or(step.retry.backoff);
            step.timeout = changes.timeout.or(step.timeout);
            step.stalled = changes.stalled.or(step.stalled);
            let Some(on_error) = changes.on_error else { continue };
            match &mut step.body {
                Body::Upscale(upscale) => upscale.on_error = on_error,
                Body::Stitch(stitch) => stitch.on_error = on_error,
                // The same as in the macro.
                Body::Encode(encode) if of_stitch => encode.allow_gaps = on_error != OnError::Fail,
                _ => {}
            }
        }
    }
}
