//! A large render farm: its machines, and renders of twenty classes, that is kinds of requirements.

use crate::jobs;
use pictor_engine::Plan;
use pictor_tasks::message::FileRef;
use pictor_tasks::worker::{Gpu, Inventory};

/// The number of classes.
pub const CLASSES: u32 = 20;

/// The name of the limit that the tasks of some classes hold.
pub const LICENCE: &str = "licence";

/// Whether the tasks of a class hold the limit.
pub fn is_licensed(class: u32) -> bool {
    class % 7 == 3
}

/// A render of this class: its requirements, its scene, its limit, its priority.
pub fn plan(class: u32, frames: u32) -> Plan {
    let requires = match class % 5 {
        0 => format!("{{ cpus: {} }}", 2 + class / 5 * 2),
        1 => format!("{{ gpu: {{ vram: {}GiB }} }}", 4 + class / 5 * 4),
        2 => format!("{{ labels: [group-{}] }}", class / 5),
        3 => format!("{{ memory: {}GiB }}", 8 + class / 5 * 8),
        _ => "{ software: { blender: \">=4.2\" } }".to_owned(),
    };
    let limits = if is_licensed(class) { format!("limits: [{LICENCE}],") } else { String::new() };
    let job = format!(
        "pictor: v1\nname: class-{class}\npriority: {}\ndims: {{ frame: 1-{frames} }}\n\
         steps: [{{ name: render, over: [frame], requires: {requires}, {limits} blender: {{ scene: {{ scene: s.blend }} }} }}]",
        class % 3
    );
    let mut plan = jobs::plan(&job);
    let digest = format!("{class:064}");
    plan.files.insert("s.blend".into(), FileRef { path: "/s.blend".into(), digest, size_bytes: 1 });
    plan
}

/// A machine with one slot. What it can do repeats after sixty machines.
pub fn inventory(number: u32) -> Inventory {
    let gpu = Gpu {
        name: "NVIDIA H100".into(),
        uuid: format!("GPU-{number:032}"),
        vram_bytes: u64::from(8 + number % 4 * 8) << 30,
        driver: "550.54".into(),
    };
    Inventory {
        name: format!("render-{number}"),
        cpus: 8 + number % 3 * 8,
        memory_bytes: (u64::from(16 + number % 5 * 16) << 30) + u64::from(number),
        disk_bytes: (500 << 30) + u64::from(number),
        gpus: if number.is_multiple_of(2) { vec![gpu] } else { Vec::new() },
        software: [
            ("blender".to_owned(), "4.5.15".to_owned()),
            ("ffmpeg".to_owned(), "5.1".to_owned()),
        ]
        .into(),
        labels: [format!("group-{}", number % 4)].into(),
        slots: 1,
        ..Inventory::default()
    }
}
