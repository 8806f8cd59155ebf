//! The compiler: turns a job spec into a plan, and reports all mistakes at once.

use super::expand::{Expanded, expand};
use super::{Dim, DimBound, DimCounts, DimValues, FOLD_VERSION, MAX_TASKS, Need, Plan, Step};
use super::{check, cycles, templates};
use pictor_tasks::body::Body;
use pictor_tasks::job::Diagnostic;
use pictor_tasks::job::spec::{DimSpec, JobSpec, NeedOn, StepSpec};
use pictor_tasks::range::Ranges;
use pictor_tasks::space::Values;
use pictor_tasks::template::RESERVED_NAMES;
use pictor_tasks::worker::{Device, Requires};
use std::collections::BTreeMap;

/// Compiles a job. The plan's `files` and `folder` are filled in when it is submitted.
pub fn compile(spec: &JobSpec) -> Result<Plan, Vec<Diagnostic>> {
    let mut problems = Vec::new();
    let Expanded { job, made_by } = expand(spec, &mut problems);
    let mut compiler = Compiler {
        dims: (0..).zip(job.dims.keys()).map(|(i, name)| (name.as_str(), i)).collect(),
        steps: (0..).zip(&job.steps).map(|(i, step)| (step.name.as_str(), i)).collect(),
        job: &job,
        unresolved: false,
        problems,
    };
    let dims = compiler.all_dims();
    let steps = compiler.all_steps(&dims);
    let (resolved, mut problems) = (!compiler.unresolved, compiler.problems);
    let mut plan = Plan {
        fold_version: FOLD_VERSION,
        name: job.name.clone(),
        dims,
        steps,
        priority: job.priority,
        on_failure: job.on_failure,
        max_failures: job.max_failures,
        files: BTreeMap::new(),
        folder: String::new(),
    };
    if resolved {
        check::spaces(&plan, &mut problems);
        check::bodies(&plan, &mut problems);
        check::retention(&plan, &mut problems);
        templates::check(&plan, &mut problems);
        cycles::check_and_rank(&mut plan, &mut problems);
    }
    for problem in &mut problems {
        place_macro_steps(problem, &made_by);
    }
    if problems.is_empty() { Ok(plan) } else { Err(problems) }
}

/// Moves a problem in a step that a macro made to the macro.
fn place_macro_steps(problem: &mut Diagnostic, made_by: &[Option<&str>]) {
    let number = problem.path.strip_prefix("steps[").and_then(|rest| rest.split(']').next());
    let number: Option<usize> = number.and_then(|n| n.parse().ok());
    if let Some(maker) = number.and_then(|number| made_by.get(number).copied().flatten()) {
        problem.path = maker.into();
    }
}

struct Compiler<'a> {
    job: &'a JobSpec,
    dims: BTreeMap<&'a str, usize>,
    steps: BTreeMap<&'a str, u16>,
    /// Whether a name or value could not be resolved, so that references to it cannot be checked.
    unresolved: bool,
    problems: Vec<Diagnostic>,
}

impl Compiler<'_> {
    fn problem(&mut self, path: &str, message: String, hint: Option<&str>) {
        let hint = hint.map(str::to_owned);
        self.problems.push(Diagnostic::new(path, message).with_hint(hint));
    }

    fn dim_number(&mut self, path: &str, name: &str) -> Option<usize> {
        let found = self.dims.get(name).copied();
        if found.is_none() {
            self.unresolved = true;
            let known: Vec<&str> = self.dims.keys().copied().collect();
            let message = format!("there is no dimension `{name}`");
            let hint = did_you_mean(name, &known).unwrap_or_else(|| "declare it in `dims`".into());
            self.problem(path, message, Some(&hint));
        }
        found
    }

    fn step_number(&mut self, path: &str, name: &str) -> Option<u16> {
        let found = self.steps.get(name).copied();
        if found.is_none() {
            self.unresolved = true;
            let known: Vec<&str> = self.steps.keys().copied().collect();
            let hint = did_you_mean(name, &known);
            self.problem(path, format!("there is no step `{name}`"), hint.as_deref());
        }
        found
    }

    fn all_dims(&mut self) -> Vec<Dim> {
        let job = self.job;
        job.dims.iter().map(|(name, spec)| self.dim(name, spec)).collect()
    }

    fn dim(&mut self, name: &str, spec: &DimSpec) -> Dim {
        let path = format!("dims.{name}");
        if RESERVED_NAMES.contains(&name) {
            let message = format!("`{name}` cannot be the name of a dimension");
            self.problem(&path, message, Some("it means something else in placeholders"));
        }
        let bound = self.bound(&path, spec);
        let sources = [
            spec.range.is_some(),
            spec.values.is_some(),
            spec.count.is_some(),
            spec.grid.is_some(),
            spec.of.is_some(),
            spec.from.is_some() && spec.bounded_by.is_none(),
            spec.count.is_none() && spec.bounded_by.is_some(),
        ];
        if sources.iter().filter(|s| **s).count() != 1 {
            self.unresolved = true;
            let message = format!("dimension `{name}` must get its values from exactly one place");
            let hint = "one of `range`, `values`, `count`, `grid`, `of` with `size`, `from`";
            self.problem(&path, message, Some(hint));
        }
        if spec.of.is_some() != spec.size.is_some() {
            self.problem(&path, "`of` and `size` go together".into(), None);
        }
        let fixed = |values| DimValues::Fixed(values);
        let values = if let Some(ranges) = &spec.range {
            fixed(Values::Ints(ranges.clone()))
        } else if let Some(names) = &spec.values {
            self.check_names(&path, names);
            fixed(Values::Names(names.clone().into()))
        } else if let Some(count) = spec.count {
            fixed(Values::count(count))
        } else if let Some(grid) = spec.grid {
            fixed(Values::count(grid.tiles()))
        } else if let Some(of) = &spec.of {
            let of = self.dim_number(&format!("{path}.of"), of).unwrap_or(0);
            DimValues::Blocks { of, size: spec.size.unwrap_or(1) }
        } else if let Some(counts) = &spec.counts {
            fixed(Values::count(counts.iter().copied().max().unwrap_or(0)))
        } else if let Some(binder) = &spec.from {
            let binder = self.step_number(&format!("{path}.from"), binder).unwrap_or(0);
            DimValues::Late { binder }
        } else {
            fixed(Values::Ints(Ranges::count(0)))
        };
        if let DimValues::Fixed(values) = &values
            && sources.contains(&true)
        {
            if values.is_empty() && !spec.allow_empty {
                self.problem(&path, format!("dimension `{name}` has no values"), None);
            } else if values.len() > MAX_TASKS {
                let message =
                    format!("{} values are too many; the limit is {MAX_TASKS}", values.len());
                self.problem(&path, message, None);
            }
        }
        Dim { name: name.into(), values, bound, allow_empty: spec.allow_empty }
    }

    fn check_names(&mut self, path: &str, names: &[String]) {
        let mut sorted: Vec<&String> = names.iter().collect();
        sorted.sort();
        if let Some([twice, _]) = sorted.array_windows().find(|[a, b]| a == b) {
            self.problem(path, format!("the value `{twice}` occurs twice"), None);
        }
        if let Some(bad) = names.iter().find(|n| n.is_empty() || n.contains([',', '=', '/', ']'])) {
            let message = format!("`{bad}` cannot be a value: no empty texts, no `,` `=` `/` `]`");
            self.problem(path, message, None);
        }
    }

    fn bound(&mut self, path: &str, spec: &DimSpec) -> Option<DimBound> {
        let Some(by) = &spec.bounded_by else {
            if spec.counts.is_some() {
                self.problem(path, "`counts` needs `bounded_by`".into(), None);
            }
            return None;
        };
        let by = self.dim_number(&format!("{path}.bounded_by"), by)?;
        let counts = match (&spec.counts, &spec.from) {
            (Some(counts), None) => {
                let limit = spec.count.unwrap_or(u32::MAX);
                if let Some(count) = counts.iter().find(|c| **c > limit) {
                    let message = format!("{count} is more than the upper limit of {limit}");
                    self.problem(&format!("{path}.counts"), message, None);
                }
                DimCounts::Fixed(counts.clone().into())
            }
            (None, Some(binder)) => {
                let binder = self.step_number(&format!("{path}.from"), binder)?;
                DimCounts::Late { binder }
            }
            _ => {
                let message = "a bounded dimension needs either `counts` or `from`".into();
                self.problem(path, message, None);
                return None;
            }
        };
        Some(DimBound { by, counts })
    }

    fn all_steps(&mut self, dims: &[Dim]) -> Vec<Step> {
        let job = self.job;
        (0..).zip(&job.steps).filter_map(|(number, spec)| self.step(number, spec, dims)).collect()
    }

    fn step(&mut self, number: usize, spec: &StepSpec, dims: &[Dim]) -> Option<Step> {
        let path = format!("steps[{number}]");
        let mut over = Vec::new();
        for (i, name) in spec.over.iter().enumerate() {
            over.extend(self.dim_number(&format!("{path}.over[{i}]"), name));
        }
        let mut needs = Vec::new();
        for (i, need) in spec.needs.iter().enumerate() {
            let path = format!("{path}.needs[{i}]");
            let Some(step) = self.step_number(&path, &need.step) else { continue };
            let mut offsets = Vec::new();
            for (name, by) in &need.offset {
                let Some(dim) = self.dim_number(&path, name) else { continue };
                let theirs = &self.job.steps[step as usize].over;
                if !spec.over.contains(name) || !theirs.contains(name) {
                    let message =
                        format!("an offset along `{name}` needs both steps to run over it");
                    self.problem(&path, message, None);
                }
                offsets.push((dim, *by));
            }
            let soft = need.on == NeedOn::Finished;
            needs.push(Need { step, offsets, soft });
        }
        // A step that binds a dimension is needed like any other.
        for binder in over.iter().flat_map(|dim| binders(dims, *dim)) {
            if !needs.iter().any(|need| need.step == binder && !need.soft) {
                needs.push(Need { step: binder, offsets: Vec::new(), soft: false });
            }
        }
        let keep = spec.keep.as_ref();
        let keep_until =
            keep.and_then(|keep| self.step_number(&format!("{path}.keep.until"), &keep.until));
        let body = self.body(&path, spec)?;
        Some(Step {
            name: spec.name.clone(),
            over,
            needs,
            requires: requires(self.job.requires.as_ref(), spec.requires.as_ref(), &body),
            body,
            retry: spec.retry.or(self.job.retry).unwrap_or_default(),
            timeout: spec.timeout.or(self.job.timeout),
            stalled: spec.stalled.or(self.job.stalled),
            order: spec.order.or(self.job.order).unwrap_or_default(),
            limits: spec.limits.clone(),
            deliver: spec.deliver.clone(),
            keep_until,
            to_sink: 0,
        })
    }

    /// The files of the job and of a step with a command.
    fn files(&mut self, path: &str, spec: &StepSpec) -> BTreeMap<String, String> {
        let mut files = self.job.files.clone();
        files.extend(spec.files.clone());
        for place in files.keys() {
            let inside =
                |other: &&str| other.strip_prefix(&**place).is_some_and(|r| r.starts_with('/'));
            if let Some(other) = files.keys().map(String::as_str).find(inside) {
                let message =
                    format!("`{other}` would lie in `{place}`, which is a file of its own");
                let of_step = spec.files.contains_key(other) || spec.files.contains_key(place);
                let at = if of_step { format!("{path}.files") } else { "files".to_owned() };
                self.problem(&at, message, None);
            }
        }
        files
    }

    fn body(&mut self, path: &str, spec: &StepSpec) -> Option<Body> {
        let mut bodies = spec.work.bodies();
        let mut body = bodies.next();
        if let Some(Body::Command(command)) = &mut body {
            command.files = self.files(path, spec);
        } else if !spec.files.is_empty() {
            let message = format!("step `{}` is no command: it reads no `files`", spec.name);
            self.problem(&format!("{path}.files"), message, None);
        }
        if body.is_none() || bodies.next().is_some() {
            self.unresolved = true;
            self.problem(path, "a step must have exactly one kind of work".into(), None);
        }
        body
    }
}

fn binders(dims: &[Dim], dim: usize) -> Vec<u16> {
    let mut found = Vec::new();
    if let Some(DimBound { counts: DimCounts::Late { binder }, .. }) = dims[dim].bound {
        found.push(binder);
    }
    let mut root = dim;
    // A dimension that is derived from itself is reported elsewhere; do not follow it for ever.
    for _ in 0..dims.len() {
        match dims[root].values {
            DimValues::Blocks { of, .. } => root = of,
            DimValues::Late { binder } => {
                found.push(binder);
                break;
            }
            DimValues::Fixed(_) => break,
        }
    }
    found
}

/// The requirements of the job and the step, and the program that the kind of work implies.
fn requires(job: Option<&Requires>, step: Option<&Requires>, body: &Body) -> Requires {
    let mut all = job.cloned().unwrap_or_default();
    if let Some(step) = step.cloned() {
        all.gpu = step.gpu.or(all.gpu);
        all.cpus = step.cpus.max(all.cpus);
        all.memory = step.memory.max(all.memory);
        all.disk = step.disk.max(all.disk);
        all.software.extend(step.software);
        all.labels.extend(step.labels);
    }
    if let Some(program) = body.program() {
        all.software.entry(program.into()).or_insert_with(|| "*".into());
    }
    if let Body::Blender(render) = body {
        match render.scene.device {
            Some(Device::Gpu) => drop(all.gpu.get_or_insert_default()),
            Some(Device::Cpu) => all.gpu = step.and_then(|step| step.gpu.clone()),
            Some(Device::Any) | None => {}
        }
    }
    if !body.may_use_gpu() {
        all.gpu = step.and_then(|s| s.gpu.clone());
    }
    all
}

/// A hint with the known word that is most similar to the one written.
pub(crate) fn did_you_mean(written: &str, known: &[&str]) -> Option<String> {
    pictor_tasks::job::nearest(written, known.iter().copied())
        .map(|word| format!("did you mean `{word}`?"))
}
