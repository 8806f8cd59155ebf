//! Validates the values that a step reports for late-bound dimensions.

use super::{Run, RunLimits};
use crate::plan::{Dim, DimCounts, DimValues};
use pictor_tasks::job::check_word;
use pictor_tasks::message::{Binding, Bound};
use pictor_tasks::space::Values;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Run {
    /// The bindings that the step has to report, or a message about what is missing or wrong. Other bindings are left
    /// out.
    pub(crate) fn vet_bindings(
        &self,
        step: u16,
        said: &[Binding],
        limits: &RunLimits,
    ) -> Result<Vec<Binding>, String> {
        let (mut kept, mut dims) = (Vec::new(), None);
        for number in self.plan.bound_by(step) {
            let dims = dims.get_or_insert_with(|| self.dims.clone());
            let dim = &self.plan.dims[number];
            let bound = said
                .iter()
                .find(|b| b.dim == dim.name)
                .ok_or_else(|| format!("it reported no values for dimension `{}`", dim.name))?;
            let late = matches!(dim.values, DimValues::Late { .. });
            let bound = if dim.bound.is_some() {
                let counts = vet_counts(dim, &bound.values)?;
                if late {
                    dims[number].values = Some(Arc::new(most(&counts)));
                }
                dims[number].counts = Some(counts.clone());
                Bound::Counts(counts)
            } else {
                let values = vet_values(dim, &bound.values)?;
                dims[number].values = Some(Arc::new(values.clone()));
                Bound::Values(values)
            };
            kept.push(Binding { dim: dim.name.clone(), values: bound });
        }
        if let Some(dims) = dims {
            let checked = limits.check_with(&self.plan, &dims);
            checked.map_err(|large| format!("with these values {large}"))?;
        }
        Ok(kept)
    }
}

fn vet_values(dim: &Dim, bound: &Bound) -> Result<Values, String> {
    let name = &dim.name;
    let Bound::Values(values) = bound else {
        return Err(format!("it reported counts for dimension `{name}`, which takes values"));
    };
    match values {
        Values::Ints(_) => {}
        Values::Names(names) => {
            let mut seen = BTreeSet::new();
            for word in names.iter() {
                if let Err(why) = check_word(word) {
                    return Err(format!("it reported `{word}` for dimension `{name}`: {why}"));
                }
                if !seen.insert(word) {
                    return Err(format!("it reported `{word}` for dimension `{name}` twice"));
                }
            }
        }
        Values::Blocks { .. } => {
            return Err(format!("it reported blocks for dimension `{name}`, which takes values"));
        }
    }
    if values.is_empty() && !dim.allow_empty {
        return Err(format!(
            "it reported an empty list for dimension `{name}`; set `allow_empty: true` if that is fine"
        ));
    }
    Ok(values.clone())
}

/// The values of a bounded dimension without an upper limit of its own: as many as the largest count.
pub(crate) fn most(counts: &[u32]) -> Values {
    Values::count(counts.iter().copied().max().unwrap_or(0))
}

/// Validates counts, which must be reported as such: a list of values is not accepted.
fn vet_counts(dim: &Dim, bound: &Bound) -> Result<Arc<[u32]>, String> {
    debug_assert!(dim.bound.as_ref().is_some_and(|b| matches!(b.counts, DimCounts::Late { .. })));
    let name = &dim.name;
    let Bound::Counts(counts) = bound else {
        return Err(format!(
            "it reported values for dimension `{name}`, which takes counts: `{{\"counts\": [1, 2]}}`"
        ));
    };
    let DimValues::Fixed(values) = &dim.values else { return Ok(counts.clone()) };
    match counts.iter().find(|count| **count > values.len()) {
        Some(count) => Err(format!(
            "it reported {count} positions of dimension `{name}`, whose upper limit is {}",
            values.len()
        )),
        None => Ok(counts.clone()),
    }
}
