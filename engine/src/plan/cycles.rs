//! Cycles between steps: allowed where offsets order the tasks (frame 7 of a simulation needs frame 6), an error
//! otherwise. Also determines each step's distance to the end of the graph.

use super::Plan;
use petgraph::algo::tarjan_scc;
use petgraph::graph::{DiGraph, NodeIndex};
use pictor_tasks::job::Diagnostic;
use std::collections::BTreeSet;

/// Reports cycles that no order of tasks can satisfy, and sets every step's distance to the end of the graph.
pub(crate) fn check_and_rank(plan: &mut Plan, problems: &mut Vec<Diagnostic>) {
    let mut graph = DiGraph::<usize, ()>::new();
    let nodes: Vec<NodeIndex> = (0..plan.steps.len()).map(|i| graph.add_node(i)).collect();
    for (consumer, step) in plan.steps.iter().enumerate() {
        for need in &step.needs {
            graph.add_edge(nodes[need.step as usize], nodes[consumer], ());
        }
    }
    // Components come sinks first, so the distance of everything after a component is known.
    for component in tarjan_scc(&graph) {
        let members: BTreeSet<usize> = component.iter().map(|node| graph[*node]).collect();
        let after = members.iter().flat_map(|m| graph.neighbors(nodes[*m])).map(|n| graph[n]);
        let to_sink = after
            .filter(|next| !members.contains(next))
            .map(|next| plan.steps[next].to_sink + 1)
            .max()
            .unwrap_or(0);
        for member in &members {
            plan.steps[*member].to_sink = to_sink;
        }
        let loops = members.iter().any(|m| graph.contains_edge(nodes[*m], nodes[*m]));
        if (members.len() > 1 || loops) && !is_ordered(plan, &members) {
            problems.push(describe(plan, &members));
        }
    }
}

/// Whether some dimension orders the component: every need within it preserves that dimension, and the offsets along it
/// sum to less than zero for every cycle, or to more than zero for every cycle.
fn is_ordered(plan: &Plan, members: &BTreeSet<usize>) -> bool {
    let first = members.first().expect("a component has members");
    plan.steps[*first].over.iter().any(|&dim| {
        members.iter().all(|m| plan.steps[*m].over.contains(&dim))
            && [-1, 1].iter().any(|sign| all_cycles_negative(plan, members, dim, *sign))
    })
}

/// Bellman-Ford for the heaviest walks. Weights are scaled so that a cycle whose offsets sum to zero has a positive
/// weight, and one whose offsets sum to minus one a negative weight.
fn all_cycles_negative(plan: &Plan, members: &BTreeSet<usize>, dim: usize, sign: i64) -> bool {
    let scale = i64::try_from(members.len()).expect("limited") + 1;
    let mut edges = Vec::new();
    for &consumer in members {
        for need in &plan.steps[consumer].needs {
            let producer = need.step as usize;
            if members.contains(&producer) {
                let offset = need.offsets.iter().find(|(d, _)| *d == dim).map_or(0, |(_, by)| *by);
                edges.push((producer, consumer, sign * i64::from(offset) * scale + 1));
            }
        }
    }
    let mut heaviest = vec![0i64; plan.steps.len()];
    for _ in 0..=members.len() {
        let mut changed = false;
        for &(from, to, weight) in &edges {
            if heaviest[from] + weight > heaviest[to] {
                heaviest[to] = heaviest[from] + weight;
                changed = true;
            }
        }
        if !changed {
            return true;
        }
    }
    false
}

fn describe(plan: &Plan, members: &BTreeSet<usize>) -> Diagnostic {
    let names: Vec<String> = members.iter().map(|m| format!("`{}`", plan.steps[*m].name)).collect();
    let first = members.first().expect("a component has members");
    let (message, hint) = if names.len() == 1 {
        (
            format!("step {} needs itself", names[0]),
            "give the need a non-zero offset along a dimension of the step, as in `offset: { frame: -1 }`",
        )
    } else {
        (
            format!("steps {} need each other", names.join(", ")),
            "remove one of the needs, or give the offsets round the cycle one sign along one dimension",
        )
    };
    Diagnostic::new(format!("steps[{first}].needs"), message).with_hint(Some(hint.into()))
}
