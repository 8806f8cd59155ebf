//! The inventory of a worker, and the requirements of a step.

use crate::job::nearest;
use crate::units::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Blender's name in lists of programs.
pub const BLENDER: &str = "blender";

/// One GPU of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Gpu {
    /// The product name, for example `NVIDIA H100`.
    pub name: String,
    /// The vendor's unique id; empty if it has none.
    pub uuid: String,
    /// Its memory in bytes.
    pub vram_bytes: u64,
    /// The version of its driver.
    pub driver: String,
}

/// A Blender installation on a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Blender {
    /// Its version, such as `4.5.15`.
    pub version: String,
    /// The path of the program.
    #[serde(default)]
    pub path: String,
    /// What Cycles can render with here, in its own names: `CPU`, `CUDA`, `OPTIX`. Each was tried, but for
    /// the processors. One that is there twice counts once.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub devices: BTreeSet<String>,
    /// For each GPU, by its unique id, the `devices` that work with it.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, Vec<String>>))]
    pub gpus: BTreeMap<String, BTreeSet<String>>,
    /// Messages about GPUs that it cannot use.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// The device that renders a scene.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// A GPU if Blender can use it, otherwise the CPU.
    Any,
    /// A GPU, on machines that have one.
    Gpu,
    /// The CPU.
    Cpu,
}

/// The hardware and software of one machine, as found by the worker and sent when it registers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Inventory {
    /// The host name of the machine.
    pub name: String,
    /// The number of logical CPUs.
    pub cpus: u32,
    /// The main memory in bytes.
    pub memory_bytes: u64,
    /// The free space, in bytes, on the disk with the worker's data.
    pub disk_bytes: u64,
    /// GPUs, in the order of the slots that own them.
    pub gpus: Vec<Gpu>,
    /// The programs found: name to version. For several Blenders it is the oldest version.
    pub software: BTreeMap<String, String>,
    /// The Blenders, ordered from the oldest.
    #[serde(default)]
    pub blenders: Vec<Blender>,
    /// Words that the operator gave to the machine. One that is there twice counts once.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub labels: BTreeSet<String>,
    /// Networks that it holds, by name. One that is there twice counts once.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub models: BTreeSet<String>,
    /// The number of tasks that it does at a time: one for each GPU or share of the CPUs.
    pub slots: u32,
    /// Whether it runs `command` steps.
    pub allows_commands: bool,
}

/// The most tasks that a machine does at a time; below, the most labels that it has.
const SLOTS_MAX: u32 = 1024;
const LABELS_MAX: usize = 256;
/// The most GPUs of a machine.
pub const GPUS_MAX: usize = 64;
/// The longest label of a machine, or name of what it has, in bytes.
pub const WORD_BYTES_MAX: usize = 256;
/// The most programs, Blenders and networks of a machine, of each.
const THINGS_MAX: usize = 4096;

impl Inventory {
    /// Says which bound it exceeds: an inventory comes from a machine that may belong to anybody.
    pub fn check(&self) -> Result<(), String> {
        let counts = [
            ("slots", self.slots as usize, SLOTS_MAX as usize),
            ("GPUs", self.gpus.len(), GPUS_MAX),
            ("labels", self.labels.len(), LABELS_MAX),
            ("programs", self.software.len(), THINGS_MAX),
            ("Blenders", self.blenders.len(), GPUS_MAX),
            ("networks", self.models.len(), THINGS_MAX),
        ];
        if let Some((what, count, most)) = counts.into_iter().find(|(_, count, most)| count > most)
        {
            return Err(format!("a machine with {count} {what}: at most {most} are possible"));
        }
        let words = self.labels.iter().chain(&self.models).chain(self.software.keys());
        let words = words.chain(self.software.values()).chain([&self.name]);
        let mut words =
            words.chain(self.gpus.iter().flat_map(|gpu| [&gpu.name, &gpu.uuid, &gpu.driver]));
        match words.find(|word| word.len() > WORD_BYTES_MAX || word.contains(char::is_control)) {
            Some(word) => {
                let shown: String = word.chars().take(40).flat_map(char::escape_debug).collect();
                Err(format!(
                    "`{shown}` cannot be a name: at most {WORD_BYTES_MAX} bytes without control characters"
                ))
            }
            None => Ok(()),
        }
    }
}

/// What a step requires of a machine. Whatever is omitted is not required.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(deny_unknown_fields)]
pub struct Requires {
    /// The GPU that it must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuNeed>,
    /// The number of logical CPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Main memory, for example `16GiB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Free disk space, for example `50GiB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Bytes>,
    /// Programs and their versions: `blender: ">=3.4"`. `"*"` accepts any version.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub software: BTreeMap<String, String>,
    /// Labels that the operator must have assigned to the machine.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub labels: BTreeSet<String>,
}

/// What a step requires of a GPU.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(deny_unknown_fields)]
pub struct GpuNeed {
    /// Memory of one GPU, for example `8GiB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vram: Option<Bytes>,
    /// A part of the GPU's name, for example `H100`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// A hint about a network that is not among those available: the name that was probably meant, or how to get more.
pub fn model_hint<'a>(name: &str, held: impl Iterator<Item = &'a str> + Clone) -> String {
    let get = "`pictor models pull` fetches the public ones".to_owned();
    let near = nearest(name, held.clone()).map(|near| format!("did you mean `{near}`?"));
    let hint = near.unwrap_or(get);
    match held.collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => hint,
        held => format!("{hint} (there are {held})"),
    }
}

impl Inventory {
    /// The versions of a program that the machine has. Workers of older versions report only one Blender.
    pub fn versions(&self, program: &str) -> impl Iterator<Item = &str> {
        let several = program == BLENDER && !self.blenders.is_empty();
        let one = self.software.get(program).filter(|_| !several);
        let blenders = self.blenders.iter().filter(move |_| several);
        one.into_iter().chain(blenders.map(|blender| &blender.version)).map(String::as_str)
    }

    /// Whether the machine has GPUs, and none of its Blenders of such a version can use one. A Blender that has not
    /// been tried counts as able.
    pub fn lacks_gpu_blender(&self, version: &str) -> bool {
        let mut fitting = self.blenders.iter().filter(|b| version_fits(version, &b.version));
        !self.gpus.is_empty()
            && !self.blenders.is_empty()
            && fitting.all(|blender| !blender.devices.is_empty() && !blender.renders_on_gpus())
    }
}

impl Blender {
    /// Whether it can use a GPU of this machine.
    pub fn renders_on_gpus(&self) -> bool {
        self.gpus.values().any(|ways| !ways.is_empty())
    }
}

impl Requires {
    /// Adds a requirement on the version of a program to those that exist.
    pub fn also(&mut self, program: &str, version: &str) {
        let said = self.software.entry(program.to_owned()).or_default();
        *said = match &**said {
            "" | "*" => version.to_owned(),
            said => format!("{said}, {version}"),
        };
    }

    /// The first requirement that the machine does not meet, such as `24 GiB of GPU memory`; `None` if it meets all.
    pub fn missing(&self, has: &Inventory) -> Option<String> {
        if let Some(lack) = self.gpu.as_ref().and_then(|need| need.missing(&has.gpus)) {
            return Some(lack);
        }
        if let Some(cpus) = self.cpus.filter(|n| *n > has.cpus) {
            return Some(format!("{cpus} processors"));
        }
        if let Some(memory) = self.memory.filter(|b| b.0 > has.memory_bytes) {
            return Some(format!("{memory} of memory"));
        }
        if let Some(disk) = self.disk.filter(|b| b.0 > has.disk_bytes) {
            return Some(format!("{disk} of free disk"));
        }
        for (name, version) in &self.software {
            if !has.versions(name).any(|found| version_fits(version, found)) {
                return Some(if version == "*" {
                    name.clone()
                } else {
                    format!("{name} {version}")
                });
            }
        }
        self.labels.difference(&has.labels).next().map(|label| format!("the label `{label}`"))
    }
}

impl GpuNeed {
    fn missing(&self, gpus: &[Gpu]) -> Option<String> {
        let model = self.model.as_deref().unwrap_or("");
        let of_model = || gpus.iter().filter(|g| g.name.contains(model));
        if of_model().next().is_none() {
            return Some(if model.is_empty() {
                "a GPU".into()
            } else {
                format!("a GPU `{model}`")
            });
        }
        let vram = self.vram?;
        let enough = of_model().any(|g| g.vram_bytes >= vram.0);
        (!enough).then(|| format!("{vram} of GPU memory"))
    }
}

/// Whether the version `found` satisfies `wanted`: `*`, `3.4` (that version or one that begins so), or comparisons
/// joined by commas, such as `>=3.4, <5`.
pub fn version_fits(wanted: &str, found: &str) -> bool {
    wanted.split(',').map(str::trim).all(|part| {
        if part == "*" {
            return true;
        }
        let digits = part.trim_start_matches(['<', '>', '=']);
        let (operator, want) = (&part[..part.len() - digits.len()], numbers(digits));
        let mut have = numbers(found);
        if matches!(operator, "" | "=" | "==" | "<=" | ">") {
            have.truncate(want.len());
        }
        match operator {
            ">=" => have >= want,
            ">" => have > want,
            "<=" => have <= want,
            "<" => have < want,
            _ => have == want,
        }
    })
}

fn numbers(version: &str) -> Vec<u64> {
    version
        .split('.')
        .map(|part| part.chars().take_while(char::is_ascii_digit).collect::<String>())
        .map_while(|digits| digits.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number_not_by_text() {
        for (wanted, found, fits) in [
            (">=3.4", "3.4.1", true),
            (">=3.4", "3.10", true),
            (">=3.4", "3.3.9", false),
            ("3.4", "3.4.1", true),
            ("3.4", "3.5", false),
            ("<5", "4.2.0", true),
            ("<=4.2", "4.2.9", true),
            (">3.4", "3.4.1", false),
            (">=3.4, <5", "5.0.1", false),
            ("*", "n4.4", true),
        ] {
            assert_eq!(version_fits(wanted, found), fits, "{wanted} {found}");
        }
    }

    #[test]
    fn any_of_several_blenders_will_do() {
        let blender = |version: &str| Blender { version: version.into(), ..Blender::default() };
        let mut has = Inventory {
            software: BTreeMap::from([(BLENDER.to_owned(), "3.4.1".to_owned())]),
            ..Inventory::default()
        };
        let mut needs = Requires::default();
        needs.also(BLENDER, "*");
        assert_eq!(needs.missing(&has), None, "as an older worker tells it");
        needs.also(BLENDER, ">=4.5");
        assert_eq!(needs.missing(&has).unwrap(), "blender >=4.5");
        has.blenders = vec![blender("3.4.1"), blender("5.0.1")];
        assert_eq!(needs.missing(&has), None);
        needs.also(BLENDER, "<5");
        assert_eq!(needs.missing(&has).unwrap(), "blender >=4.5, <5", "one of them, not two");
    }

    #[test]
    fn a_gpu_that_no_blender_can_use_is_told() {
        let gpu = Gpu { name: "A".into(), uuid: "1".into(), vram_bytes: 1, driver: String::new() };
        let blender = |version: &str, ways: &[&str]| Blender {
            version: version.into(),
            devices: ["CPU"].iter().chain(ways).map(|way| (*way).to_owned()).collect(),
            gpus: [("1".into(), ways.iter().map(|way| (*way).to_owned()).collect())].into(),
            ..Blender::default()
        };
        let mut has = Inventory { blenders: vec![blender("3.4.1", &[])], ..Inventory::default() };
        assert!(!has.lacks_gpu_blender("*"), "no GPU");
        has.gpus.push(gpu);
        assert!(has.lacks_gpu_blender("*"));
        has.blenders.push(blender("5.0.1", &["CUDA"]));
        assert!(!has.lacks_gpu_blender("*") && has.lacks_gpu_blender("<5"));
        has.blenders[0].devices.clear();
        assert!(!has.lacks_gpu_blender("<5"), "not tried");
    }

    #[test]
    fn the_first_missing_thing_is_named() {
        let has = Inventory { cpus: 2, ..Inventory::default() };
        let gpu = Some(GpuNeed { vram: Some(Bytes(24 << 30)), model: None });
        assert_eq!(Requires { gpu, ..Requires::default() }.missing(&has).unwrap(), "a GPU");
        let software = BTreeMap::from([("blender".to_owned(), ">=3.4".to_owned())]);
        let needs = Requires { software, ..Requires::default() };
        assert_eq!(needs.missing(&has).unwrap(), "blender >=3.4");
        assert_eq!(Requires::default().missing(&has), None);
    }

    #[test]
    fn an_inventory_has_what_a_machine_may_have() {
        let good = Inventory { slots: SLOTS_MAX, ..Inventory::default() };
        assert_eq!(good.check(), Ok(()));
        let gpu = |uuid: &str| Gpu {
            name: "GPU".into(),
            uuid: uuid.into(),
            vram_bytes: 1,
            driver: String::new(),
        };
        let label = |text: &str| BTreeSet::from([text.to_owned()]);
        for (bad, word) in [
            (Inventory { slots: u32::MAX, ..good.clone() }, "4294967295 slots"),
            (Inventory { gpus: vec![gpu("a"); GPUS_MAX + 1], ..good.clone() }, "65 GPUs"),
            (Inventory { gpus: vec![gpu("x\npictor_owner 1")], ..good.clone() }, "control"),
            (Inventory { labels: label(&"a".repeat(300)), ..good.clone() }, "256 bytes"),
        ] {
            assert!(bad.check().is_err_and(|why| why.contains(word)), "{word}");
        }
    }
}
