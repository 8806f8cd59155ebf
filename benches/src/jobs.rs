//! The jobs that are measured, as users would write them.

use pictor_engine::{Plan, compile};
use pictor_tasks::job::{Source, parse};

/// A job of `count` tasks, and one that waits for all of them.
pub fn fan(count: u32) -> String {
    format!(
        "pictor: v1\nname: fan\ndims:\n  item: {{ count: {count} }}\nsteps:\n\
         - {{ name: work, over: [item], noop: {{}} }}\n\
         - {{ name: join, needs: [work], noop: {{}} }}\n"
    )
}

/// A job of 500 frames with 8 tiles each, merged and encoded.
pub fn frames() -> String {
    "pictor: v1\nname: frames\ndims:\n  frame: { range: 1-500 }\n  tile: { grid: 4x2 }\nsteps:\n\
     - { name: render, over: [frame, tile], noop: {} }\n\
     - { name: merge, over: [frame], needs: [render], noop: {} }\n\
     - { name: encode, needs: [merge], noop: {} }\n"
        .to_owned()
}

/// A job of `count` tasks, each of which waits for the one before it.
pub fn chain(count: u32) -> String {
    format!(
        "pictor: v1\nname: chain\ndims:\n  link: {{ count: {count} }}\nsteps:\n\
         - {{ name: hop, over: [link], needs: [{{ step: hop, offset: {{ link: -1 }} }}], noop: {{}} }}\n"
    )
}

/// A job of a million tasks: 8 tiles of each of 111,111 frames, merged, and one encode.
pub fn million() -> String {
    "pictor: v1\nname: million\ndims:\n  frame: { range: 1-111111 }\n  tile: { grid: 4x2 }\nsteps:\n\
     - { name: render, over: [frame, tile], noop: {} }\n\
     - { name: merge, over: [frame], needs: [render], noop: {} }\n\
     - { name: encode, needs: [merge], noop: {} }\n"
        .to_owned()
}

/// Compiles the text of a job file to its plan.
///
/// # Panics
/// If the job file has errors.
pub fn plan(text: &str) -> Plan {
    let source = Source { name: "bench".into(), text: text.to_owned() };
    let parsed = parse(&source, &[]).unwrap_or_else(|e| panic!("{}", e.render(&source)));
    compile(&parsed.spec)
        .unwrap_or_else(|problems| panic!("{}", parsed.source_map.render(&source, &problems)))
}
